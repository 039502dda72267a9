"use strict";
// Sorting and filtering, by text and by outcome. The page is complete without any of it.
(() => {
  const table = document.querySelector("table.queries");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells].filter((cell) => !cell.classList.contains("evidence-head"));
  const filter = document.getElementById("filter");
  const outcome = document.getElementById("outcome");
  const tiles = [...document.querySelectorAll(".tile")];
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const texts = new Map(); // row -> what the filter looks at, made on first use

  const valueOf = (row, column, numeric) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.value === "" || isNaN(cell.dataset.value) ? null : Number(cell.dataset.value);
  };

  const compare = (left, right, sign) => {
    if (left === null || right === null) return (left === null) - (right === null); // unknown goes last, both ways
    return sign * (typeof left === "number" ? left - right : collator.compare(left, right));
  };

  const sortBy = (header) => {
    const column = header.cellIndex;
    const numeric = "numeric" in header.dataset;
    const before = header.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row) => [valueOf(row, column, numeric), row]);
    keyed.sort((left, right) => compare(left[0], right[0], descending ? -1 : 1));
    body.append(...keyed.map(([, row]) => row));
  };

  const textOf = (row) => {
    if (!texts.has(row)) {
      const id = row.querySelector(".cell-query").textContent;
      texts.set(row, `${id}\n${row.dataset.find}`.toLowerCase());
    }
    return texts.get(row);
  };

  const hasOutcome = (row) => {
    if (outcome.value === "leaked") return "leaked" in row.dataset;
    return outcome.value === "" || row.dataset.outcome === outcome.value;
  };

  const showMatching = () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !hasOutcome(row) || (wanted !== "" && !textOf(row).includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
    document.querySelector(".nothing").hidden = shown > 0;
    for (const tile of tiles) {
      tile.querySelector("button").setAttribute("aria-pressed", String(tile.dataset.outcome === outcome.value));
    }
  };

  const toggleOutcome = (tile) => {
    const pressed = tile.dataset.outcome === outcome.value;
    outcome.value = pressed ? "" : tile.dataset.outcome;
    showMatching();
    if (!pressed) document.getElementById("queries-title").focus(); // the table is a screen or two below
  };

  const makeButton = (place, action) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...place.childNodes);
    button.addEventListener("click", action);
    place.append(button);
  };

  for (const header of headers) makeButton(header, () => sortBy(header));
  for (const tile of tiles) makeButton(tile.querySelector("h2"), () => toggleOutcome(tile));
  filter.addEventListener("input", showMatching);
  outcome.addEventListener("change", showMatching);
  const tools = document.querySelector(".tools");
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  showMatching(); // a browser may have kept the filter over a reload
})();
