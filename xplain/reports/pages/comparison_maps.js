// Decode the maps of a comparison and paint them as xplain/reports/render.py does: clip by percentiles, color, overlay.

const colormaps = {
  magnitude: data.colors.magnitude.map(parseColor),
  signed: data.colors.signed.map(parseColor),
};

function parseColor(hex) {
  return [0, 2, 4].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// Return the values of a map; xplain/reports/map_encoding.py describes the encoding.
async function decodeMap(cell, row) {
  const compressed = Uint8Array.from(atob(cell.data), (character) => character.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (cell.delta) for (let i = 1; i < bytes.length; i++) bytes[i] += bytes[i - 1];
  const { levels, power } = data.quantization;
  const count = row.width * row.height;
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const level = levels > 127 ? bytes[i] * 256 + bytes[count + i] - 32768 : bytes[i] - 128;
    values[i] = Math.sign(level) * cell.max * Math.pow(Math.abs(level) / levels, power);
  }
  return values;
}

// Return the distance to the next level; the rounding error of a value is at most half of it.
function quantizationStep(cell, value) {
  const { levels, power } = data.quantization;
  if (!cell.max) return 0;
  const level = Math.round(levels * Math.pow(Math.abs(value) / cell.max, 1 / power));
  return cell.max * (Math.pow((level + 1) / levels, power) - Math.pow(level / levels, power));
}

// Return the values whose positive part is drawn: the values, their negatives or their magnitudes.
function visiblePart(values, sign) {
  if (sign === "positive") return values;
  return values.map(sign === "negative" ? (value) => -value : Math.abs);
}

function percentile(sorted, percent) {
  const position = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
}

// Return the heatmap: in [0, 1], or in [-1, 1] for signed maps.
function normalize(cell, sign) {
  const visible = visiblePart(cell.values, sign).map((value) => Math.max(value, 0));
  const key = "sorted-" + (sign === "signed" ? "absolute" : sign);
  cell[key] = cell[key] || visible.slice().sort();
  const low = percentile(cell[key], state.low);
  const high = percentile(cell[key], state.high);
  const scale = (value) => Math.min(Math.max((value - low) / (high - low), 0), 1);
  const isAbove = (value) => (value > high ? 1 : 0);
  const scaled = visible.map(high > low ? scale : isAbove);
  return sign === "signed" ? scaled.map((value, i) => Math.sign(cell.values[i]) * value) : scaled;
}

// Return 1 for the pixels with the highest tenth of values, else 0. Ties are broken in raster order.
function highestTenth(cell, sign) {
  if (!cell.tenth) {
    const visible = visiblePart(cell.values, sign);
    const order = Array.from(visible.keys()).sort((a, b) => visible[b] - visible[a] || a - b);
    cell.tenth = new Uint8Array(visible.length);
    for (const i of order.slice(0, Math.max(Math.round(0.1 * visible.length), 1))) cell.tenth[i] = 1;
  }
  return cell.tenth;
}

function paint(cell, row) {
  const sign = state.view === "signed" ? "signed" : data.look.sign;
  const output = new ImageData(row.width, row.height);
  output.data.fill(255); // opaque
  if (state.view === "top") paintTopPixels(output.data, cell, row, sign);
  else paintHeatmap(output.data, cell, row, sign);
  cell.canvas.getContext("2d").putImageData(output, 0, 0);
}

// Write the image's colors where the map has its highest tenth, gray elsewhere.
function paintTopPixels(output, cell, row, sign) {
  const isTop = highestTenth(cell, sign);
  for (let i = 0; i < isTop.length; i++) {
    for (let k = 4 * i; k < 4 * i + 3; k++) output[k] = isTop[i] ? row.pixels[k] : 128;
  }
}

// Write the colors of the heatmap, or the image masked by it or under it. The clamped array rounds.
function paintHeatmap(output, cell, row, sign) {
  const heatmap = normalize(cell, sign);
  const colormap = colormaps[sign === "signed" ? "signed" : "magnitude"];
  const pixels = row.pixels;
  for (let i = 0; i < heatmap.length; i++) {
    const start = 4 * i;
    const level = Math.abs(heatmap[i]);
    const position = sign === "signed" ? (heatmap[i] + 1) / 2 : heatmap[i];
    const color = colormap[Math.min(Math.floor(position * 256), 255)];
    const weight = state.opacity * Math.sqrt(level);
    const gray = 0.299 * pixels[start] + 0.587 * pixels[start + 1] + 0.114 * pixels[start + 2];
    for (let k = 0; k < 3; k++) {
      const channel = pixels[start + k];
      if (state.view === "masked") output[start + k] = channel * level;
      else if (state.view === "overlay") output[start + k] = (1 - weight) * (0.5 * channel + 0.5 * gray) * 0.75 + weight * color[k];
      else output[start + k] = color[k];
    }
  }
}

const unpainted = new Map(); // from cell to row

function repaintAll() {
  showColors();
  if (!unpainted.size) requestAnimationFrame(repaintSome);
  for (const row of data.rows) for (const cell of row.cells) if (cell && cell.values) unpainted.set(cell, row);
  document.body.dataset.painted = "no";
}

// Paint for 25 ms per frame, so that sliders stay responsive with many maps.
function repaintSome() {
  const deadline = performance.now() + 25;
  for (const [cell, row] of unpainted) {
    unpainted.delete(cell);
    paint(cell, row);
    if (performance.now() > deadline) break;
  }
  if (unpainted.size) requestAnimationFrame(repaintSome);
  else document.body.dataset.painted = "yes";
}
