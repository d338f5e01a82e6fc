"use strict";
(() => {
  const root = document.querySelector(".scrub");
  const all = (selector) => [...document.querySelectorAll(selector)];

  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme === "dark" ||
      (root.style.colorScheme === "" && matchMedia("(prefers-color-scheme: dark)").matches);
    root.style.colorScheme = dark ? "light" : "dark";
  });

  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) {
      target.hidden = false;
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
  document.addEventListener("click", (event) => {  // again to where the address is already
    const link = event.target.closest("a");
    if (link && link.getAttribute("href") === location.hash) open();
  });

  const table = document.querySelector("#overview table");
  if (!table) return;
  document.getElementById("controls").hidden = false;

  const rows = () => [...table.tBodies[0].rows];
  all("#overview th").forEach((header, column) => {
    const button = header.querySelector("button");
    button.addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      all("#overview th").forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const isNumber = header.classList.contains("number");
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === "" || b === "") return (a === "") - (b === "");  // what is missing comes last either way
        const order = isNumber ? a - b : a.localeCompare(b);
        return ascending ? order : -order;
      };
      table.tBodies[0].append(...rows().sort(compare));
    });
  });

  const [outcome, words, shown] = ["outcome", "words", "shown"].map((id) => document.getElementById(id));
  const filter = () => {
    const wanted = words.value.toLowerCase();
    const matches = (row) =>
      (!outcome.value || row.dataset.outcome === outcome.value) && row.textContent.toLowerCase().includes(wanted);
    let count = 0;
    for (const row of rows()) {
      row.hidden = !matches(row);
      document.getElementById(row.dataset.claim).hidden = row.hidden;
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows().length} shown`;
  };
  outcome.addEventListener("input", filter);
  words.addEventListener("input", filter);
  filter();

  const claims = all("details.claim");
  const toggle = document.getElementById("every");
  toggle.addEventListener("click", () => {
    const isOpening = claims.some((one) => !one.open && !one.hidden);
    claims.forEach((one) => { if (!one.hidden) one.open = isOpening; });
  });
})();
