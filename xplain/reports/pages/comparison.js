"use strict";
// The state of the page, its controls, and its start. comparison.html inserts the other scripts after this one.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const metrics = Object.keys(data.metrics);
const VIEWS = [["overlay", "overlay"], ["heatmap", "heatmap"], ["masked", "masked"], ["signed", "signed"], ["top", "top 10%"]];
const state = {
  view: data.look.sign === "signed" ? "signed" : "overlay",
  low: data.look.clip[0],
  high: data.look.clip[1],
  opacity: data.look.opacity,
};

function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...children.filter((child) => child !== null));
  return created;
}

function svgElement(tag, attributes, text = "") {
  const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.textContent = text;
  return created;
}

function formatNumber(value, digits = 4) {
  return value === null || value === undefined ? "" : Number(value).toPrecision(digits);
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function makeControls() {
  VIEWS.forEach(([view, text], k) => {
    const input = element("input", { type: "radio", name: "view", value: view, id: `view-${view}` });
    input.checked = view === state.view;
    input.addEventListener("change", () => { state.view = view; repaintAll(); });
    byId("views").append(element("label", { title: `key ${k + 1}` }, input, text));
  });
  for (const name of ["low", "high", "opacity"]) {
    byId(name).value = state[name];
    byId(`${name}-out`).textContent = state[name];
    byId(name).addEventListener("input", () => moveSlider(name));
  }
  const root = document.documentElement;
  root.style.setProperty("--columns", data.columns.length + 1);
  byId("size").addEventListener("input", () => root.style.setProperty("--cell", `${byId("size").value}px`));
  byId("curves").addEventListener("change", () => document.body.classList.toggle("curves", byId("curves").checked));
  if (!metrics.length) byId("curves").parentElement.hidden = true;
  makeOrderControls();
  byId("theme").addEventListener("click", switchTheme);
  document.addEventListener("keydown", chooseViewByKey);
}

function makeOrderControls() {
  const option = (value, text) => element("option", { value }, text);
  byId("columns-by").append(option("", "original order"), ...metrics.map((metric) => option(metric, metric)), option("seconds", "time"));
  byId("rows-by").append(option("", "original order"), option("probability", "probability"));
  for (const metric of metrics) {
    byId("rows-by").append(option(JSON.stringify([metric, null]), `mean ${metric}`),
      ...data.columns.map((column, k) => option(JSON.stringify([metric, k]), `${metric} for ${column}`)));
  }
  for (const id of ["columns-by", "rows-by"]) byId(id).addEventListener("change", arrangeTable);
}

// Read a slider; the lower percentile stays below the upper one.
function moveSlider(name) {
  state[name] = Number(byId(name).value);
  if (name === "low" && state.low >= state.high) state.high = Math.min(state.low + 0.1, 100);
  if (name === "high" && state.high <= state.low) state.low = Math.max(state.high - 0.1, 0);
  for (const slider of ["low", "high", "opacity"]) {
    byId(slider).value = state[slider];
    byId(`${slider}-out`).textContent = Number(state[slider].toFixed(2));
  }
  repaintAll();
}

// Show which colors stand for which values. A masked image gets darker; of the highest tenth, there is no scale.
function showColors() {
  const isSigned = state.view === "signed" || (state.view !== "masked" && data.look.sign === "signed");
  const colors = state.view === "masked" ? ["000", "fff"] : data.colors[isSigned ? "signed" : "magnitude"].filter((_, i) => i % 15 === 0);
  byId("colors").style.background = `linear-gradient(to right, ${colors.map((color) => `#${color}`).join(", ")})`;
  const [low, high] = [state.low, state.high].map((percent) => `p${Number(percent.toFixed(2))}`);
  byId("colors-low").textContent = isSigned ? `≤ −${high}` : `≤ ${low}`;
  byId("colors-high").textContent = `≥ ${high}`;
  byId("colors").parentElement.hidden = state.view === "top";
  byId("colors").parentElement.title = "pN: N-th percentile of the " + (isSigned ? "magnitudes" : `${data.look.sign} values`) + " of each map";
}

function switchTheme() {
  const themes = ["auto", "light", "dark"];
  const current = document.documentElement.dataset.theme || "auto";
  const next = themes[(themes.indexOf(current) + 1) % 3];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  byId("theme").textContent = `theme: ${next}`;
}

function chooseViewByKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || ["SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) byId(`view-${view[0]}`).click();
}

function showSummary() {
  const images = new Set(data.rows.map((row) => row.input)).size;
  byId("summary").textContent = `${plural(images, "image")}, ${plural(data.columns.length, "method")}. ` +
    `Sign: ${data.look.sign}. Channel reduction: ${data.look.reduce}. Each map is clipped at the same percentiles of its own values.`;
}

function showPrecision() {
  const { bits, levels, power } = data.quantization;
  const widest = (100 * (Math.pow(1 + 1 / levels, power) - 1)).toFixed(1);
  const spacing = power === 1
    ? `One step is 1/${levels} of the largest magnitude of the map.`
    : `Steps are smaller near zero; the largest step is ${widest}% of the largest magnitude of the map.`;
  byId("precision").textContent = `Maps on this page are quantized to ${bits} bits (${2 * levels + 1} levels). ${spacing}` +
    " Displayed values are accurate to within half a step.";
}

async function readPixels(row) {
  const image = row.header.querySelector("img");
  await image.decode();
  const context = element("canvas", { width: row.width, height: row.height }).getContext("2d");
  context.drawImage(image, 0, 0, row.width, row.height);
  return context.getImageData(0, 0, row.width, row.height).data;
}

async function start() {
  showSummary();
  showPrecision();
  makeControls();
  for (const row of data.rows) {
    row.header = makeRowHeader(row);
    row.elements = data.columns.map((_, column) => makeCell(row, column));
  }
  arrangeTable();
  byId("size").value = byId("grid").querySelector("figure").offsetWidth;
  showMeans();
  showAgreement();
  showFailures();
  for (const row of data.rows) {
    row.pixels = await readPixels(row);
    for (const cell of row.cells) {
      if (!cell) continue;
      cell.values = await decodeMap(cell, row);
      paint(cell, row);
    }
  }
  repaintAll(); // the user may have moved a control in the meantime
}
