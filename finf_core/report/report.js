"use strict";
// Sorting, filtering and "only leaked". The page is complete without any of it.
(() => {
  const table = document.querySelector("table.queries");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells].filter((cell) => !cell.classList.contains("evidence-head"));
  const filter = document.getElementById("filter");
  const onlyLeaked = document.getElementById("only-leaked");
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const texts = new Map(); // row -> the ids that the filter looks at, made on first use

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
      const found = [...row.querySelectorAll("[data-find]")].map((element) => element.textContent);
      texts.set(row, found.join("\n").toLowerCase());
    }
    return texts.get(row);
  };

  const showMatching = () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const leaked = "leaked" in row.dataset;
      row.hidden = (onlyLeaked.checked && !leaked) || (wanted !== "" && !textOf(row).includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
    document.querySelector(".nothing").hidden = shown > 0;
  };

  for (const header of headers) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(header));
    header.append(button);
  }
  filter.addEventListener("input", showMatching);
  onlyLeaked.addEventListener("change", showMatching);
  const tools = document.querySelector(".tools");
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  showMatching(); // a browser may have kept the filter over a reload
})();
