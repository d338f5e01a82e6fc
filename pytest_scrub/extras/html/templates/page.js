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

  const render = (claim) => {  // what it says, which was one text until now
    const kept = claim.querySelector(":scope > noscript");
    if (kept) kept.outerHTML = kept.textContent;
  };
  document.addEventListener("toggle", ({ target }) => {
    if (target.matches("details.claim") && target.open) render(target);
  }, true);

  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) {
      render(target);
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

  const KEPT = [
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "paint-order",
    "font-family", "font-size", "font-weight",
  ];
  // The circuit of a claim below what became of it, as a picture that needs no style.
  const drawn = (claim) => {
    const shown = claim.querySelector("svg.circuit");
    const copy = shown.cloneNode(true);
    const copies = [copy, ...copy.querySelectorAll("*")];
    [shown, ...shown.querySelectorAll("*")].forEach((one, i) => {
      const style = getComputedStyle(one);
      for (const name of KEPT) copies[i].setAttribute(name, style.getPropertyValue(name));
      copies[i].removeAttribute("class");
    });
    const { color, backgroundColor, fontFamily } = getComputedStyle(root);
    const told = claim.querySelector("summary .outcome") ?? document.querySelector(".became .outcome");
    const name = claim.querySelector("summary .name") ?? document.querySelector("h1");
    const lines = [
      [told, 14, 700], [name, 13, 400], [claim.querySelector(".headline"), 13, 400],
    ].flatMap(([one, size, weight]) => {
      const ruler = document.createElement("canvas").getContext("2d");
      ruler.font = `${weight} ${size}px ${fontFamily}`;
      const wide = Math.max(copy.viewBox.baseVal.width, 560);
      const rows = [""];
      for (const word of one.textContent.trim().split(/(?<=[\s_/:])/)) {
        if (rows.at(-1) && ruler.measureText((rows.at(-1) + word).trimEnd()).width > wide) rows.push("");
        rows[rows.length - 1] += word;
      }
      const fill = one === told ? getComputedStyle(told).color : color;
      return rows.map((text) => ({ text, size, weight, fill, width: ruler.measureText(text.trimEnd()).width }));
    });
    const edge = 16;
    const top = edge + 20 * lines.length + 8;
    const width = Math.max(copy.viewBox.baseVal.width, ...lines.map((line) => line.width)) + 2 * edge;
    const height = top + copy.viewBox.baseVal.height + edge;
    const make = (parent, tag, facts) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value);
      parent?.append(made);
      return made;
    };
    const whole = make(null, "svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    make(whole, "rect", { width, height, fill: backgroundColor });
    lines.forEach(({ text, size, weight, fill }, i) => {
      make(whole, "text", {
        x: edge, y: edge + 14 + 20 * i, fill, "font-size": size, "font-weight": weight, "font-family": fontFamily,
      }).textContent = text;
    });
    copy.setAttribute("x", edge);
    copy.setAttribute("y", top);
    whole.append(copy);
    return { text: new XMLSerializer().serializeToString(whole), width, height, name: name.textContent };
  };
  const picture = async (claim, kind) => {
    const { text, width, height, name } = drawn(claim);
    const file = `${name.replace(/[^\w.-]+/g, "-").slice(-100)}.${kind}`;
    if (kind === "svg") return [new Blob([text], { type: "image/svg+xml" }), file];
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const scale = Math.min(2, 16000 / Math.max(width, height));  // as large as browsers draw
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.ceil(width * scale), Math.ceil(height * scale)];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return [await new Promise((done) => canvas.toBlob(done)), file];
  };
  const taken = {
    save: async (claim, kind) => {
      const [blob, file] = await picture(claim, kind);
      const link = document.createElement("a");
      [link.href, link.download] = [URL.createObjectURL(blob), file];
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      return `saved as ${file}`;
    },
    copy: async (claim, kind) => {
      if (kind === "svg") await navigator.clipboard.writeText(drawn(claim).text);
      else {
        const blob = picture(claim, kind).then(([made]) => made);
        await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      }
      return "copied";
    },
  };
  root.classList.add("scripted");
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest(".take button");
    if (!button) return;
    const said = button.parentElement.querySelector("[aria-live]");
    try {
      said.textContent = await taken[button.dataset.how](button.closest(".claim"), button.dataset.kind);
    } catch (error) {
      said.textContent = `this browser refused: ${error.message}; save it instead`;
    }
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
    claims.forEach((one) => {
      if (one.hidden) return;
      if (isOpening) render(one);
      one.open = isOpening;
    });
  });
})();
