"use strict";
// Everything is visible without this script. It adds sorting, hiding of runs, values in plots, hints
// and the current section. It writes no text as HTML.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(name, parent, properties = {}) {
  const element = Object.assign(document.createElement(name), properties);
  parent.append(element);
  return element;
}

// Tables: a button in each title sorts the rows. The third click restores their order.
function setUpTable(table) {
  const body = table.tBodies[0], rows = [...body.rows], titles = [...table.tHead.rows[0].cells];
  const number = text => parseFloat(text.replace(/^[<\s]+/, "").replaceAll(",", ""));
  const compare = (a, b, isNumber) => isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });

  function sort(title, direction) {
    const column = titles.indexOf(title), isNumber = title.classList.contains("number");
    const keyed = rows.map(row => {
      const text = row.cells[column].textContent.trim();
      const value = isNumber ? number(text) : text;
      return { row, value, isMissing: isNumber && Number.isNaN(value) };
    });
    if (direction) keyed.sort((a, b) => a.isMissing - b.isMissing
      || (a.isMissing ? 0 : direction * compare(a.value, b.value, isNumber)));
    body.append(...keyed.map(one => one.row));
    for (const other of titles) other.removeAttribute("aria-sort");
    if (direction) title.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }

  for (const title of titles) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    const first = title.classList.contains("number") ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    button.addEventListener("click", () => {
      const next = { [first]: second, [second]: "" }[title.getAttribute("aria-sort")] ?? first;
      sort(title, { ascending: 1, descending: -1 }[next] ?? 0);
    });
  }
}

// Runs: an element with the key of a hidden run or setting is hidden.
const hiddenKeys = new Set();

function setUpRuns(menu) {
  const [button, panel] = menu.children;
  const boxes = all("input", panel), settings = boxes.filter(box => box.dataset.runs);
  const open = isOpen => {
    panel.hidden = !isOpen;
    button.setAttribute("aria-expanded", isOpen);
  };
  const getRuns = setting => boxes.filter(box => setting.dataset.runs.split(" ").includes(box.value));

  function update() {
    hiddenKeys.clear();
    for (const setting of settings) {
      const runs = getRuns(setting), shown = runs.filter(box => box.checked).length;
      if (runs.length) {
        setting.checked = shown > 0;
        setting.indeterminate = shown > 0 && shown < runs.length;
      } else if (!setting.checked) setting.dataset.runs.split(" ").forEach(key => hiddenKeys.add(key));
    }
    for (const box of boxes) if (!box.checked) hiddenKeys.add(box.value);
    for (const element of all("[data-key]")) {
      element.toggleAttribute("hidden", hiddenKeys.has(element.dataset.key));
    }
    const n = settings.flatMap(box => box.dataset.runs.trim().split(" "));
    const off = n.filter(key => hiddenKeys.has(key)).length;
    button.textContent = off ? `Runs (${n.length - off} of ${n.length})` : "Runs";
    checkWidths();
  }

  panel.addEventListener("change", event => {
    if (event.target.dataset.runs) {
      for (const box of getRuns(event.target)) box.checked = event.target.checked;
    }
    update();
  });
  button.addEventListener("click", () => open(panel.hidden));
  document.addEventListener("click", event => menu.contains(event.target) || open(false));
  menu.addEventListener("keydown", event => {
    if (event.key === "Escape") {
      open(false);
      button.focus();
    }
  });
  menu.hidden = false;
  if (boxes.some(box => !box.checked)) update();  // browsers restore boxes on reload
}

// Plots: the values at the pointer, or at the step chosen with the arrow keys.
function setUpPlot(plot) {
  const svg = plot.querySelector("svg"), { heading, scales, traces } =
    JSON.parse(plot.querySelector("script").textContent);
  const place = (value, { offset, factor, is_log }) =>
    offset + factor * (is_log ? Math.log10(value) : value);
  for (const trace of traces) {
    trace.places = trace.points.map(([x, y, text]) =>
      ({ x, left: place(x, scales[0]), top: place(y, scales[1]), text, trace }));
  }
  const box = svg.viewBox.baseVal, tip = make("div", plot, { className: "tip", hidden: true });
  const ruler = make("div", plot, { className: "ruler", hidden: true });
  const getPlaces = () => traces.filter(trace => !hiddenKeys.has(trace.key))
    .flatMap(trace => trace.places);
  let current = null;
  tip.role = "status";

  function show(chosen) {
    current = chosen;
    tip.hidden = ruler.hidden = !chosen;
    if (!chosen) return;
    const shown = heading ? getPlaces().filter(one => Math.abs(one.left - chosen.left) < 0.5) : [chosen];
    tip.replaceChildren();
    if (heading) make("div", tip, { textContent: `${heading} ${chosen.x}` });
    for (const { trace, text } of shown) {
      const line = make("div", tip);
      make("span", line, { className: "swatch" }).style.background = `var(--line-${trace.color})`;
      line.append(`${trace.name}: ${text}`);
    }
    const frame = svg.getBoundingClientRect(), scale = frame.width / box.width;
    const left = chosen.left * scale, isRight = left > frame.width / 2;
    const width = tip.offsetWidth, space = isRight ? left - width - 12 : left + 12;
    tip.style.left = `${Math.max(0, Math.min(space, frame.width - width))}px`;
    const top = heading ? 0.15 * frame.height : chosen.top * scale - tip.offsetHeight - 10;
    tip.style.top = `${Math.max(0, top)}px`;
    Object.assign(ruler.style, heading
      ? { left: `${left}px`, top: `${0.1 * frame.height}px`, height: `${0.65 * frame.height}px` }
      : { height: "0" });
  }

  function pick(event) {
    const frame = svg.getBoundingClientRect(), scale = box.width / frame.width;
    const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
    const distance = one => heading ? Math.abs(one.left - x) : Math.hypot(one.left - x, one.top - y);
    const places = getPlaces();
    if (places.length) show(places.reduce((best, one) => distance(one) < distance(best) ? one : best));
  }

  function move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") show(null);
    if (!step) return;
    event.preventDefault();
    let places = getPlaces().sort((a, b) => a.left - b.left);
    if (heading) places = places.filter((one, i) => !i || one.left - places[i - 1].left >= 0.5);
    const index = current ? places.findIndex(one => heading ? one.x === current.x : one === current) : -1;
    const next = index < 0 ? (step > 0 ? 0 : places.length - 1) : index + step;
    if (places[next]) show(places[next]);
  }

  plot.addEventListener("pointermove", pick);
  plot.addEventListener("pointerdown", pick);
  plot.addEventListener("pointerleave", event => event.pointerType === "touch" || show(null));
  plot.addEventListener("keydown", move);
  plot.addEventListener("blur", () => show(null));
}

// Wide tables: a hint while there is more to the right.
function checkWidths() {
  for (const frame of all(".frame")) {
    const wide = frame.querySelector(".wide");
    frame.classList.toggle("cut", wide.scrollWidth - wide.clientWidth - wide.scrollLeft > 8);
  }
}

// Navigation: the link of the section at the top of the window is the current one.
function setUpNavigation() {
  const links = all("nav a"), sections = links.map(link => document.getElementById(link.hash.slice(1)));
  const update = () => {
    const isAtEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const passed = sections.filter(section => section.getBoundingClientRect().top < 120).length;
    const current = isAtEnd && scrollY ? links.length - 1 : passed - 1;
    links.forEach((link, i) => {
      if (i !== current) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const strip = link.parentElement;
        strip.scrollLeft = link.offsetLeft - strip.offsetLeft - (strip.clientWidth - link.offsetWidth) / 2;
      }
    });
  };
  addEventListener("scroll", update, { passive: true });
  update();
}

all("table.sortable").forEach(setUpTable);
all(".plot").forEach(setUpPlot);
all(".runs").forEach(setUpRuns);
all(".wide").forEach(wide => wide.addEventListener("scroll", checkWidths, { passive: true }));
all("details").forEach(one => one.addEventListener("toggle", checkWidths));
addEventListener("resize", checkWidths);
addEventListener("beforeprint", () => all("details").forEach(one => { one.open = true; }));
checkWidths();
setUpNavigation();
