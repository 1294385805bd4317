"use strict";
// Draws the maps of an xplain comparison as xplain/render.py does: reduce (done), clip by percentiles, colour, lay over.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const metrics = Object.keys(data.metrics);
const VIEWS = [["overlay", "overlay"], ["heatmap", "heatmap"], ["masked", "masked"], ["signed", "signed"], ["top", "top 10 %"]];
const state = { view: data.look.sign === "signed" ? "signed" : "overlay", low: data.look.clip[0], high: data.look.clip[1], opacity: data.look.opacity };
const ramps = Object.fromEntries(["magnitude", "signed"].map((name) => [name, data.colours[name].map(parseColour)]));

function parseColour(text) {
  return [0, 2, 4].map((at) => parseInt(text.slice(at, at + 2), 16));
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// ---------------------------------------------------------------- values

async function unpack(cell, row) {
  const bytes = Uint8Array.from(atob(cell.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const plain = new Uint8Array(await new Response(stream).arrayBuffer());
  if (cell.delta) for (let i = 1; i < plain.length; i++) plain[i] += plain[i - 1];
  const { levels, power } = data.quantisation;
  const count = row.width * row.height;
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const q = levels > 127 ? plain[i] * 256 + plain[count + i] - 32768 : plain[i] - 128;
    values[i] = Math.sign(q) * cell.max * Math.pow(Math.abs(q) / levels, power);
  }
  return values;
}

function stepAt(cell, value) { // to the next level: what was rounded is off by at most half of it
  const { levels, power } = data.quantisation;
  if (!cell.max) return 0;
  const q = Math.round(levels * Math.pow(Math.abs(value) / cell.max, 1 / power));
  return cell.max * (Math.pow((q + 1) / levels, power) - Math.pow(q / levels, power));
}

function inOrder(values, sign) {
  if (sign === "positive") return values;
  return values.map(sign === "negative" ? (v) => -v : Math.abs);
}

function percentile(sorted, percent) {
  const at = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
}

function heat(cell, sign) {
  const shown = inOrder(cell.values, sign).map((v) => Math.max(v, 0));
  const key = "sorted-" + (sign === "signed" ? "absolute" : sign);
  cell[key] = cell[key] || shown.slice().sort();
  const low = percentile(cell[key], state.low);
  const high = percentile(cell[key], state.high);
  const scaled = shown.map(high > low ? (v) => Math.min(Math.max((v - low) / (high - low), 0), 1) : (v) => (v > high ? 1 : 0));
  return sign === "signed" ? scaled.map((v, i) => Math.sign(cell.values[i]) * v) : scaled;
}

function highestTenth(cell, sign) {
  if (!cell.tenth) {
    const shown = inOrder(cell.values, sign);
    const order = Array.from(shown.keys()).sort((a, b) => shown[b] - shown[a] || a - b);
    cell.tenth = new Uint8Array(shown.length);
    for (const i of order.slice(0, Math.max(Math.round(0.1 * shown.length), 1))) cell.tenth[i] = 1;
  }
  return cell.tenth;
}

// --------------------------------------------------------------- pictures

function paint(cell, row) {
  const sign = state.view === "signed" ? "signed" : data.look.sign;
  const pixels = row.pixels;
  const out = new ImageData(row.width, row.height);
  const put = (i, r, g, b) => { // a clamped array rounds by itself
    out.data[4 * i] = r;
    out.data[4 * i + 1] = g;
    out.data[4 * i + 2] = b;
    out.data[4 * i + 3] = 255;
  };
  if (state.view === "top") {
    const kept = highestTenth(cell, sign);
    for (let i = 0; i < kept.length; i++) kept[i] ? put(i, pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]) : put(i, 128, 128, 128);
  } else {
    const shown = heat(cell, sign);
    const ramp = ramps[sign === "signed" ? "signed" : "magnitude"];
    for (let i = 0; i < shown.length; i++) {
      const [r, g, b] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
      const level = Math.abs(shown[i]);
      const [cr, cg, cb] = ramp[Math.min(Math.floor((sign === "signed" ? (shown[i] + 1) / 2 : shown[i]) * 256), 255)];
      if (state.view === "masked") put(i, r * level, g * level, b * level);
      else if (state.view === "overlay") {
        const grey = 0.299 * r + 0.587 * g + 0.114 * b;
        const weight = state.opacity * Math.sqrt(level);
        const mix = (own, colour) => (1 - weight) * (0.5 * own + 0.5 * grey) * 0.75 + weight * colour;
        put(i, mix(r, cr), mix(g, cg), mix(b, cb));
      } else put(i, cr, cg, cb);
    }
  }
  cell.canvas.getContext("2d").putImageData(out, 0, 0);
}

const dirty = new Map(); // cell to row
function repaintAll() {
  if (!dirty.size) requestAnimationFrame(repaintSome);
  for (const row of data.rows) for (const cell of row.cells) if (cell && cell.values) dirty.set(cell, row);
  document.body.dataset.painted = "no";
}
function repaintSome() { // a few at a time, so that a slider stays smooth with many maps
  const until = performance.now() + 25;
  for (const [cell, row] of dirty) {
    dirty.delete(cell);
    paint(cell, row);
    if (performance.now() > until) break;
  }
  if (dirty.size) requestAnimationFrame(repaintSome);
  else document.body.dataset.painted = "yes";
}

// ---------------------------------------------------------------- reading

function number(value, digits = 4) {
  return value === null || value === undefined ? "" : Number(value).toPrecision(digits);
}

function readAt(row, x, y) {
  const i = y * row.width + x;
  const parts = row.cells.map((cell, k) =>
    cell && cell.values ? `${data.columns[k]} ${number(cell.values[i])} ± ${number(stepAt(cell, cell.values[i]) / 2, 2)}` : null);
  byId("read").textContent = `pixel (${x}, ${y}):  ` + parts.filter(Boolean).join("   ·   ");
}

function listen(cell, row) {
  const canvas = cell.canvas;
  let point = [Math.floor(row.width / 2), Math.floor(row.height / 2)];
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (offset, length, count) => Math.min(Math.max(Math.floor((offset / length) * count), 0), count - 1);
    point = [at(event.clientX - box.left, box.width, row.width), at(event.clientY - box.top, box.height, row.height)];
    readAt(row, ...point);
  });
  canvas.addEventListener("focus", () => readAt(row, ...point));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const by = event.shiftKey ? 10 : 1;
    const clamp = (v, count) => Math.min(Math.max(v, 0), count - 1);
    point = [clamp(point[0] + move[0] * by, row.width), clamp(point[1] + move[1] * by, row.height)];
    readAt(row, ...point);
  });
}

// ------------------------------------------------------------------ table

function className(described) {
  return described.name === null ? `class ${described.index}` : described.name;
}

function bestOf(row, metric) {
  const values = row.cells.map((cell) => cell && cell.scores[metric].value).filter((v) => v !== null);
  if (values.length < 2) return null;
  return data.metrics[metric].better === "higher" ? Math.max(...values) : Math.min(...values);
}

function arrow(metric) {
  return data.metrics[metric].better === "higher" ? "↑" : "↓";
}

function inputHead(row) {
  const caption = element("figcaption", {}, element("b", {}, row.input.split(/[\\/]/).pop()));
  if (data.many_models) caption.append(element("br"), row.model);
  caption.append(element("br"), `${className(row.target)} ${row.target.probability.toFixed(3)}`);
  const best = row.prediction[0];
  if (best.index !== row.target.index) caption.append(element("br"), `top: ${className(best)} ${best.probability.toFixed(3)}`);
  const image = element("img", { src: row.image, alt: row.input, width: row.width, height: row.height });
  return element("th", { scope: "row" }, element("figure", {}, image, caption));
}

function cellOf(row, k) {
  const cell = row.cells[k];
  const name = element("div", { class: "name" }, data.columns[k]);
  if (!cell) return element("td", { "data-column": k }, name, element("div", { class: "failed" }, "failed"));
  cell.canvas = element("canvas", { width: row.width, height: row.height, tabindex: 0, role: "img",
    "aria-label": `${data.columns[k]} on ${row.input}` });
  listen(cell, row);
  const caption = element("figcaption");
  for (const metric of metrics) {
    const score = cell.scores[metric];
    const text = score.value === null ? `undefined: ${score.undefined}` : score.value.toFixed(4);
    const best = score.value !== null && score.value === bestOf(row, metric);
    caption.append(element("div", best ? { class: "best", title: "best of the row" } : {}, `${metric} ${arrow(metric)} ${text}`));
  }
  caption.append(element("div", { class: "soft" }, `${number(cell.cost.seconds, 2)} s, ${cell.cost.forwards} F, ${cell.cost.backwards} B`));
  for (const warning of cell.warnings) caption.append(element("div", { class: "warn" }, warning));
  return element("td", { "data-column": k }, element("figure", {}, name, cell.canvas, curveOf(cell), caption));
}

function curveOf(cell) {
  const space = "http://www.w3.org/2000/svg";
  const drawn = metrics.filter((metric) => cell.scores[metric].curve);
  if (!drawn.length) return null;
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 200 110");
  svg.setAttribute("class", "curve");
  const add = (tag, attributes, text) => {
    const made = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    svg.append(made);
  };
  add("path", { d: "M20 5V95H195", fill: "none", stroke: "currentColor", "stroke-width": 0.7 });
  add("text", { x: 16, y: 12, "text-anchor": "end" }, "1");
  add("text", { x: 16, y: 97, "text-anchor": "end" }, "0");
  drawn.forEach((metric, k) => {
    const curve = cell.scores[metric].curve;
    const points = curve.map((v, i) => `${20 + (175 * i) / (curve.length - 1)},${95 - 90 * Math.min(Math.max(v, 0), 1)}`);
    const colour = data.colours.curves[k % data.colours.curves.length];
    add("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 1.6 });
    add("text", { x: 24 + 60 * k, y: 107, style: `fill:${colour}` }, metric.split(":")[0]);
  });
  return svg;
}

// ---------------------------------------------------------------- sorting

function meanOf(row, metric) {
  const values = row.cells.map((cell) => cell && cell.scores[metric].value).filter((v) => v !== null);
  return values.length ? values.reduce((a, b) => a + b) / values.length : null;
}

function order(count, key, higher) {
  const indices = [...Array(count).keys()];
  if (!key) return indices;
  const keyed = indices.map((i) => [key(i), i]);
  const rank = (v) => (v === null || v === undefined ? Infinity : higher ? -v : v); // what is not known comes last
  return keyed.sort((a, b) => rank(a[0]) - rank(b[0]) || a[1] - b[1]).map((each) => each[1]);
}

function columnOrder() {
  const by = byId("columns-by").value;
  if (by === "seconds") return order(data.columns.length, (k) => data.means[k].seconds, false);
  if (!by) return order(data.columns.length, null);
  return order(data.columns.length, (k) => data.means[k].scores[by].mean, data.metrics[by].better === "higher");
}

function rowOrder() {
  const by = byId("rows-by").value;
  if (!by) return order(data.rows.length, null);
  if (by === "probability") return order(data.rows.length, (i) => data.rows[i].target.probability, true);
  const [metric, column] = JSON.parse(by);
  const key = (i) => (column === null ? meanOf(data.rows[i], metric) : data.rows[i].cells[column] && data.rows[i].cells[column].scores[metric].value);
  return order(data.rows.length, key, data.metrics[metric].better === "higher");
}

function arrange() {
  const columns = columnOrder();
  byId("grid").tHead.replaceChildren(element("tr", {}, element("th", {}, "input"), ...columns.map((k) => element("th", { scope: "col" }, data.columns[k]))));
  byId("grid").tBodies[0].replaceChildren(...rowOrder().map((i) => element("tr", {}, data.rows[i].head, ...columns.map((k) => data.rows[i].places[k]))));
}

// ----------------------------------------------------------------- around

function table(id, head, rows) {
  byId(id).replaceChildren(element("tr", {}, ...head.map((text) => element("th", {}, text))), ...rows);
}

function showMeans() {
  const head = ["method", ...metrics.map((metric) => `${metric} ${arrow(metric)}`), "seconds", "images"];
  const rows = data.means.map((mean) => element("tr", {}, element("td", {}, mean.column),
    ...metrics.map((metric) => element("td", {}, mean.scores[metric].mean === null ? "" : mean.scores[metric].mean.toFixed(4))),
    element("td", {}, number(mean.seconds, 3)), element("td", {}, String(mean.n))));
  table("means", head, rows);
}

function showAgreement() {
  if (data.columns.length < 2) return;
  const names = { spearman: "Spearman's ρ of the saliencies", top10: "Overlap of the top 10 %", ssim: "SSIM of the heatmaps" };
  const box = element("div", { class: "matrices" });
  for (const [name, found] of Object.entries(data.agreement)) {
    const matrix = element("table", { class: "numbers matrix" }, element("caption", {}, names[name] || name));
    matrix.append(element("tr", {}, element("th"), ...data.columns.map((_, k) => element("th", { scope: "col" }, String(k + 1)))));
    found.mean.forEach((row, i) => {
      const cells = row.map((v) => {
        const cell = element("td", {}, v === null ? "?" : v.toFixed(2).replace("-0.00", "0.00"));
        const share = Math.min(Math.max(v, 0), 1);
        cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(share * 55)}%, var(--back))`;
        return cell;
      });
      matrix.append(element("tr", {}, element("th", { scope: "row" }, `${i + 1} ${data.columns[i]}`), ...cells));
    });
    box.append(element("div", { class: "scroll" }, matrix));
  }
  byId("agreement").replaceChildren(element("h2", {}, "Do they agree? (means over the images)"), box);
}

function showFailures() {
  if (!data.failed.length) return;
  const items = data.failed.map((each) => element("li", {}, each.error));
  byId("failures").replaceChildren(element("h2", {}, "Failed"), element("ul", {}, ...items));
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
    byId(name).addEventListener("input", () => slide(name));
  }
  byId("size").addEventListener("input", () => document.documentElement.style.setProperty("--cell", `${byId("size").value}px`));
  byId("curves").addEventListener("change", () => document.body.classList.toggle("curves", byId("curves").checked));
  if (!metrics.length) byId("curves").parentElement.hidden = true;
  const option = (value, text) => element("option", { value }, text);
  byId("columns-by").append(option("", "as given"), ...metrics.map((metric) => option(metric, `by ${metric}`)), option("seconds", "by seconds"));
  byId("rows-by").append(option("", "as given"), option("probability", "by probability"));
  for (const metric of metrics) {
    byId("rows-by").append(option(JSON.stringify([metric, null]), `by mean ${metric}`),
      ...data.columns.map((column, k) => option(JSON.stringify([metric, k]), `by ${metric} of ${column}`)));
  }
  for (const id of ["columns-by", "rows-by"]) byId(id).addEventListener("change", arrange);
  byId("theme").addEventListener("click", nextTheme);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || ["SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    const view = VIEWS[Number(event.key) - 1];
    if (view) byId(`view-${view[0]}`).click();
  });
}

function slide(name) { // the lower end stays below the upper one
  state[name] = Number(byId(name).value);
  if (name === "low" && state.low >= state.high) state.high = Math.min(state.low + 0.1, 100);
  if (name === "high" && state.high <= state.low) state.low = Math.max(state.high - 0.1, 0);
  for (const each of ["low", "high", "opacity"]) {
    byId(each).value = state[each];
    byId(`${each}-out`).textContent = Number(state[each].toFixed(2));
  }
  repaintAll();
}

function nextTheme() {
  const themes = ["auto", "light", "dark"];
  const now = document.documentElement.dataset.theme || "auto";
  const next = themes[(themes.indexOf(now) + 1) % 3];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  byId("theme").textContent = `theme: ${next}`;
}

async function start() {
  const images = new Set(data.rows.map((row) => row.input)).size;
  byId("summary").textContent = `${images} image${images === 1 ? "" : "s"}, ${data.columns.length} method${data.columns.length === 1 ? "" : "s"}; ` +
    `sign ${data.look.sign}, channels by ${data.look.reduce}. Every map is clipped at the same percentiles of its own values.`;
  const { bits, levels, power } = data.quantisation;
  byId("precision").textContent = `On this page each map is quantised to ${bits} bits: ${2 * levels + 1} levels` +
    (power === 1 ? `, a step is the largest magnitude / ${levels}.` : `, finer near zero; the widest step is ${(100 * (Math.pow(1 + 1 / levels, power) - 1)).toFixed(1)} % of the largest magnitude.`) +
    " Values are read with half a step as their ±.";
  makeControls();
  for (const row of data.rows) {
    row.head = inputHead(row);
    row.places = data.columns.map((_, k) => cellOf(row, k));
  }
  arrange();
  showMeans();
  showAgreement();
  showFailures();
  for (const row of data.rows) {
    const image = row.head.querySelector("img");
    await image.decode();
    const canvas = element("canvas", { width: row.width, height: row.height });
    canvas.getContext("2d").drawImage(image, 0, 0, row.width, row.height);
    row.pixels = canvas.getContext("2d").getImageData(0, 0, row.width, row.height).data;
    for (const cell of row.cells) {
      if (!cell) continue;
      cell.values = await unpack(cell, row);
      paint(cell, row);
    }
  }
  repaintAll(); // a control may have been moved meanwhile
}

start();
