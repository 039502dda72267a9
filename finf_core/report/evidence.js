// Evidence lies in a <noscript>, which a browser with scripts keeps as text: ten thousand queries cost nothing until
// one is opened. An address that ends in #query-3 or #query-3-1 opens that query.
(() => {
  const fill = (details) => {
    const inert = details.querySelector(":scope > noscript");
    if (!inert) return;
    const template = document.createElement("template");
    template.innerHTML = inert.textContent; // escaped when the page was written
    inert.replaceWith(template.content);
  };

  const openTarget = () => {
    const [id, query] = /^#(query-\d+)(?:-\d+)?$/.exec(location.hash) ?? [];
    const row = document.getElementById(query);
    if (!row) return;
    const details = row.querySelector("details");
    row.hidden = false; // whatever the filter says
    details.open = true;
    fill(details);
    (document.getElementById(id.slice(1)) ?? row).scrollIntoView();
  };

  document.querySelector("table.queries").addEventListener(
    "toggle",
    (event) => {
      if (event.target.open) fill(event.target);
    },
    true, // a toggle does not bubble
  );
  addEventListener("hashchange", openTarget);
  openTarget();
})();
