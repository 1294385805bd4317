// The table of cells with their captions and curves, its order, and the tables below it.

function className(description) {
  const kind = description.probability === null ? "output" : "class";
  return description.name === null ? `${kind} ${description.index}` : description.name;
}

function arrow(metric) {
  return { higher: " ↑", lower: " ↓", neither: "" }[data.metrics[metric].better];
}

function definedScores(row, metric) {
  return row.cells.map((cell) => cell && cell.scores[metric].value).filter((value) => value !== null);
}

function bestScore(row, metric) {
  const values = definedScores(row, metric);
  if (values.length < 2 || data.metrics[metric].better === "neither") return null;
  return data.metrics[metric].better === "higher" ? Math.max(...values) : Math.min(...values);
}

function meanScore(row, metric) {
  const values = definedScores(row, metric);
  return values.length ? values.reduce((a, b) => a + b) / values.length : null;
}

function certaintyOf(description) {
  return description.probability ?? description.value; // models without probabilities have values
}

function formatCertainty(description) {
  return description.probability === null ? String(Number(description.value.toPrecision(4))) : description.probability.toFixed(3);
}

function makeRowHeader(row) {
  const caption = element("figcaption", {}, element("b", {}, row.input.split(/[\\/]/).pop()));
  if (data.many_models) caption.append(element("br"), row.model);
  caption.append(element("br"), `${className(row.target)} ${formatCertainty(row.target)}`);
  const best = row.prediction[0];
  if (best.index !== row.target.index) caption.append(element("br"), `predicted: ${className(best)} ${formatCertainty(best)}`);
  const image = element("img", { src: row.image, alt: row.input, width: row.width, height: row.height });
  return element("th", { scope: "row" }, element("figure", {}, image, caption));
}

function makeCell(row, column) {
  const cell = row.cells[column];
  const name = element("div", { class: "name" }, data.columns[column]);
  if (!cell) return element("td", { "data-column": column }, name, element("div", { class: "failed" }, "failed"));
  cell.canvas = element("canvas", { width: row.width, height: row.height, tabindex: 0, role: "img",
    "aria-label": `${data.columns[column]} on ${row.input}` });
  readValuesOn(cell.canvas, row);
  const figure = element("figure", {}, name, cell.canvas, makeCurves(cell), makeCaption(cell, row));
  return element("td", { "data-column": column }, figure);
}

function makeCaption(cell, row) {
  const caption = element("figcaption");
  for (const metric of metrics) {
    const score = cell.scores[metric];
    const text = score.value === null ? `undefined: ${score.undefined}` : score.value.toFixed(4);
    const isBest = score.value !== null && score.value === bestScore(row, metric);
    const attributes = isBest ? { class: "best", title: "best in row" } : {};
    caption.append(element("div", attributes, `${metric}${arrow(metric)} ${text}`));
  }
  if (cell.stability) caption.append(element("div", {}, cell.stability));
  const { seconds, forwards, backwards } = cell.cost;
  const parts = [`${formatNumber(seconds, 2)} s,`, `${forwards} forward and`, `${backwards} backward passes`];
  const units = parts.flatMap((part) => [element("span", { class: "unit" }, part), " "]).slice(0, -1);
  caption.append(element("div", { class: "soft" }, ...units));
  for (const warning of cell.warnings) caption.append(element("div", { class: "warn" }, warning));
  return caption;
}

function makeCurves(cell) {
  const metricsWithCurve = metrics.filter((metric) => cell.scores[metric].curve);
  if (!metricsWithCurve.length) return null;
  const svg = svgElement("svg", { viewBox: "0 0 200 110", class: "curve" });
  svg.append(svgElement("path", { d: "M20 5V95H195", fill: "none", stroke: "currentColor", "stroke-width": 0.7 }));
  svg.append(svgElement("text", { x: 16, y: 12, "text-anchor": "end" }, "1"));
  svg.append(svgElement("text", { x: 16, y: 97, "text-anchor": "end" }, "0"));
  metricsWithCurve.forEach((metric, k) => {
    const curve = cell.scores[metric].curve;
    const points = curve.map((value, i) => `${20 + (175 * i) / (curve.length - 1)},${95 - 90 * Math.min(Math.max(value, 0), 1)}`);
    const color = data.colors.curves[k % data.colors.curves.length];
    svg.append(svgElement("polyline", { points: points.join(" "), fill: "none", stroke: color, "stroke-width": 1.6 }));
    svg.append(svgElement("text", { x: 24 + 60 * k, y: 107, style: `fill:${color}` }, metric.split(":")[0]));
  });
  return svg;
}

// Show the values of all maps of a row at the pixel under the pointer, or at one that the arrow keys move.
function readValuesOn(canvas, row) {
  let point = [Math.floor(row.width / 2), Math.floor(row.height / 2)];
  const clamp = (value, count) => Math.min(Math.max(value, 0), count - 1);
  const read = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * row.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * row.height);
    point = [clamp(x, row.width), clamp(y, row.height)];
    showValues(row, ...point);
  };
  canvas.addEventListener("pointermove", read);
  canvas.addEventListener("pointerdown", read);
  canvas.addEventListener("focus", () => showValues(row, ...point));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const distance = event.shiftKey ? 10 : 1;
    point = [clamp(point[0] + move[0] * distance, row.width), clamp(point[1] + move[1] * distance, row.height)];
    showValues(row, ...point);
  });
}

function showValues(row, x, y) {
  const i = y * row.width + x;
  const texts = [];
  row.cells.forEach((cell, column) => {
    if (!cell || !cell.values) return;
    const error = quantizationStep(cell, cell.values[i]) / 2;
    texts.push(`${data.columns[column]} ${formatNumber(cell.values[i])} ± ${formatNumber(error, 2)}`);
  });
  byId("read").textContent = `pixel (${x}, ${y}):  ` + texts.join("   ·   ");
}

// Return the indices 0 .. count - 1 in the order of their keys; undefined keys come last.
function sortedIndices(count, key, higherFirst) {
  const rank = (value) => {
    if (value === null || value === undefined) return Infinity;
    return higherFirst ? -value : value;
  };
  const ranks = [...Array(count).keys()].map((i) => [rank(key(i)), i]);
  return ranks.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, i]) => i);
}

function columnOrder() {
  const by = byId("columns-by").value;
  if (!by) return [...data.columns.keys()];
  if (by === "seconds") return sortedIndices(data.columns.length, (column) => data.means[column].seconds, false);
  const key = (column) => data.means[column].scores[by].mean;
  return sortedIndices(data.columns.length, key, data.metrics[by].better !== "lower");
}

function rowOrder() {
  const by = byId("rows-by").value;
  if (!by) return [...data.rows.keys()];
  if (by === "probability") return sortedIndices(data.rows.length, (i) => certaintyOf(data.rows[i].target), true);
  const [metric, column] = JSON.parse(by);
  const key = (i) => {
    if (column === null) return meanScore(data.rows[i], metric);
    const cell = data.rows[i].cells[column];
    return cell && cell.scores[metric].value;
  };
  return sortedIndices(data.rows.length, key, data.metrics[metric].better !== "lower");
}

function arrangeTable() {
  const columns = columnOrder();
  const headers = columns.map((column) => element("th", { scope: "col" }, data.columns[column]));
  byId("grid").tHead.replaceChildren(element("tr", {}, element("th", {}, "image"), ...headers));
  const rows = rowOrder().map((i) => data.rows[i]);
  byId("grid").tBodies[0].replaceChildren(
    ...rows.map((row) => element("tr", {}, row.header, ...columns.map((column) => row.elements[column]))));
}

function showMeans() {
  const names = ["method", ...metrics.map((metric) => `${metric}${arrow(metric)}`), "seconds per map", "maps"];
  const rows = data.means.map((mean) => {
    const scores = metrics.map((metric) => mean.scores[metric].mean);
    const texts = [mean.column, ...scores.map((score) => (score === null ? "" : score.toFixed(4)))];
    texts.push(formatNumber(mean.seconds, 3), String(mean.n));
    return element("tr", {}, ...texts.map((text) => element("td", {}, text)));
  });
  byId("means").replaceChildren(element("tr", {}, ...names.map((name) => element("th", {}, name))), ...rows);
}

function showAgreement() {
  if (data.columns.length < 2) return;
  const titles = { spearman: "Spearman's ρ between maps", top10: "Overlap of the top 10% of pixels", ssim: "SSIM between maps" };
  const box = element("div", { class: "matrices" });
  for (const [name, agreement] of Object.entries(data.agreement)) {
    const table = element("table", { class: "numbers matrix" }, element("caption", {}, titles[name] || name));
    const numbers = data.columns.map((_, column) => element("th", { scope: "col" }, String(column + 1)));
    table.append(element("tr", {}, element("th"), ...numbers));
    agreement.mean.forEach((values, i) => {
      table.append(element("tr", {}, element("th", { scope: "row" }, `${i + 1} ${data.columns[i]}`), ...values.map(agreementCell)));
    });
    box.append(element("div", { class: "scroll" }, table));
  }
  byId("agreement").replaceChildren(element("h2", {}, "Agreement between methods (mean over images)"), box);
}

function agreementCell(value) {
  const cell = element("td", {}, value === null ? "n/a" : value.toFixed(2).replace("-0.00", "0.00"));
  const share = Math.min(Math.max(value, 0), 1);
  cell.style.background = `color-mix(in srgb, var(--accent) ${Math.round(share * 55)}%, var(--back))`;
  return cell;
}

function showFailures() {
  if (!data.failed.length) return;
  const items = data.failed.map((failure) => element("li", {}, failure.error));
  byId("failures").replaceChildren(element("h2", {}, "Failed"), element("ul", {}, ...items));
}
