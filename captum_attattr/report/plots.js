// Pictures: Bokeh draws them, this code sets their data.

const PURPLE = "#542788",
  ORANGE = "#b35806";
const FONT = 'system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
const palette = JSON.parse(document.getElementById("palette").textContent);
const colourOf = (part) => palette[Math.round(((palette.length - 1) * (Math.min(Math.max(part, -1), 1) + 1)) / 2)];

const { documents, items } = JSON.parse(document.getElementById("figures").textContent);
await Bokeh.embed.embed_items(documents, items);
const model = (name) => Bokeh.documents[0].get_model_by_name(name);
const Matrix = model("shares source").data.image[0].constructor;

// In the dark the letters of the pictures are light; maps stay white where nothing is.
const dark = matchMedia("(prefers-color-scheme: dark)");
function dress() {
  const [ink, soft] = dark.matches ? ["#eceaf2", "#b4b1c0"] : ["#1c1b22", "#5c5a66"];
  for (const name of ["heads", "shares", "attention", "tree"]) {
    const figure = model(name);
    for (const axis of [...figure.below, ...figure.left])
      Object.assign(axis, { major_label_text_color: ink, axis_label_text_color: soft });
    for (const bar of figure.above) Object.assign(bar, { major_label_text_color: ink });
  }
}
dark.addEventListener("change", dress);
dress();

// Bokeh would read text between these signs as formulas, but the user's texts hold none.
const plain = (text) => text.replaceAll("$$", "$\u2060$").replaceAll("\\", "\\\u2060");

const pencil = document.createElement("canvas").getContext("2d");
function widthOf(text, size) {
  pencil.font = `${size}px ${FONT}`;
  return pencil.measureText(text).width;
}
function shortened(text, size, room) {
  if (widthOf(text, size) <= room) return text;
  const letters = [...text];
  while (letters.length > 1 && widthOf(`${letters.join("")}\u2026`, size) > room) letters.pop();
  return `${letters.join("")}\u2026`;
}

function label(axis, names, size) {
  axis.ticker.ticks = [...names.keys()];
  axis.major_label_overrides = new Map([...names].map(([place, name]) => [place, plain(shortened(name, size, 92))]));
  axis.major_label_text_font_size = `${size}px`;
}

function span(range, start, end) {
  Object.assign(range, { reset_start: start, reset_end: end, start, end });
}

function frame(name, box) {
  const annotation = model(name);
  if (box) [annotation.left, annotation.right, annotation.bottom, annotation.top] = box;
  annotation.visible = Boolean(box);
}

function drawHeads(path, scores, state) {
  const figure = model("heads"),
    layers = path.layers.length,
    heads = path.heads;
  const cell = Math.min(30, (document.getElementById("heads").clientWidth - 60) / heads);
  const whole = reach(scores.flat());
  const cells = scores.flatMap((row, layer) =>
    row.map((score, head) => ({ layer, head, score, most: state.scale === "layer" ? reach(row) : whole })),
  );
  model("heads source").data = {
    head: cells.map(({ head }) => head),
    row: cells.map(({ layer }) => layer),
    colour: cells.map(({ score, most }) => colourOf(most ? score / most : 0)),
    says: cells.map(({ layer, head, score }) => `layer ${path.layers[layer]}, head ${head}: ${signed(score)}`),
  };
  span(figure.x_range, -0.5, heads - 0.5);
  span(figure.y_range, -0.5, layers - 0.5);
  const every = Math.ceil(18 / cell),
    tall = Math.min(cell, 26);
  label(
    figure.below[0],
    new Map(Array.from({ length: heads }, (_, head) => [head, String(head)]).filter(([head]) => head % every === 0)),
    11,
  );
  label(
    figure.left[0],
    new Map(path.layers.map((layer, row) => [row, String(layer)]).filter(([row]) => row % Math.ceil(13 / tall) === 0)),
    11,
  );
  const { layer, head } = state;
  frame(
    "chosen",
    layer !== null || head !== null
      ? [(head ?? 0) - 0.5, (head ?? heads - 1) + 0.5, (layer ?? 0) - 0.5, (layer ?? layers - 1) + 0.5]
      : null,
  );
  Object.assign(figure, { frame_width: Math.floor(cell * heads), frame_height: Math.floor(tall * layers) });
}

// Names along an axis: all of them if they fit, else those of the strongest tokens that do not touch each other.
function namesThatFit(names, strength, range, pixels, size) {
  const [low, high] = [Math.min(range.start, range.end), Math.max(range.start, range.end)];
  const apart = ((size + 1) * (high - low)) / pixels;
  const visible = [...names.keys()].filter((place) => place > low && place < high);
  const named = [];
  for (const place of visible.sort((one, other) => strength[other] - strength[one]))
    if (named.every((other) => Math.abs(other - place) >= apart)) named.push(place);
  return new Map(named.sort((one, other) => one - other).map((place) => [place, names[place]]));
}

// The size of letters, and that of the map beside the names of its rows.
function room(name, { rows, columns, tokens }) {
  const most = Math.max(rows.length, columns.length),
    size = most > 40 ? 10 : 12;
  const names = Math.min(92, Math.max(0, ...rows.map((row) => widthOf(tokens[row], size))));
  const wide = document.getElementById(name).clientWidth - names - 50;
  const cell = Math.max(140, Math.min(wide, 46 * most)) / most;
  return { size, wide: Math.floor(cell * columns.length), high: Math.floor(cell * rows.length) };
}

function labelPairs(map, down, across) {
  for (const name of ["shares", "attention"]) {
    const { x_range, y_range, below, left } = model(name),
      { size, wide, high } = room(name, map);
    const names = (places) => places.map((place) => map.tokens[place]);
    label(below[0], namesThatFit(names(map.columns), across, x_range, wide, size), size);
    label(left[0], namesThatFit(names(map.rows), down, y_range, high, size), size);
  }
}

// A map of some rows and columns, whose darkest colour is `most`; `low` is -1 where signs count, else 0.
function drawPairs(name, map, part, low, most, { token }) {
  const { rows, columns, second } = map,
    { wide, high } = room(name, map);
  Object.assign(model(`${name} colours`), { low: low * (most || 1), high: most || 1 });
  model(`${name} source`).data = {
    image: [new Matrix(part.buffer, [rows.length, columns.length])],
    from: [-0.5],
    wide: [columns.length],
    high: [rows.length],
  };
  const [row, column] = [rows.indexOf(token), columns.indexOf(token)];
  const [last, lowest] = [columns.length - 0.5, rows.length - 0.5];
  frame(`${name} row`, row >= 0 && [-0.5, last, row - 0.5, row + 0.5]);
  frame(`${name} column`, column >= 0 && [column - 0.5, column + 0.5, -0.5, lowest]);
  for (const [dimension, places] of [
    ["width", rows],
    ["height", columns],
  ]) {
    const start = second === null ? -1 : places.findIndex((place) => place >= second);
    Object.assign(model(`${name} ${dimension}`), { location: start - 0.5, visible: start > 0 });
  }
  Object.assign(model(name), { frame_width: wide, frame_height: high });
}

function zoomOut({ rows, columns }) {
  const { x_range, y_range } = model("shares");
  span(x_range, -0.5, columns.length - 0.5);
  span(y_range, rows.length - 0.5, -0.5);
}

function isZoomed({ rows, columns }) {
  const { x_range, y_range } = model("shares");
  const size = (range) => Math.abs(range.end - range.start);
  return size(x_range) < columns.length - 0.01 || size(y_range) < rows.length - 0.01;
}

// Layers from the lowest on, one a band, but neighbours without an edge in one band.
function bandsOf(layers, edges) {
  const used = new Set(edges.map(([layer]) => layer));
  const bands = [];
  for (const layer of layers) {
    const last = bands.at(-1);
    if (!last || used.has(layer) || used.has(last.at(-1))) bands.push([layer]);
    else last.push(layer);
  }
  return bands;
}

// Widths in pixels, proportional to the attributions; the edges of a query in one layer are together at most 30 wide.
function widthsOf(edges) {
  const sizes = edges.map(([, , , , attribution]) => Math.abs(attribution));
  const bundles = {};
  edges.forEach(([layer, query], place) => {
    bundles[[layer, query]] = (bundles[[layer, query]] ?? 0) + sizes[place];
  });
  const unit = Math.min(12 / (reach(sizes) || 1), 30 / (reach(Object.values(bundles)) || 1));
  return sizes.map((size) => Math.max(unit * size, 0.5));
}

// Where each edge begins, in pixels beside its token: in one layer side by side, ordered by their ends.
function asideOf(edges, widths) {
  const aside = new Array(edges.length);
  edges.forEach(([layer, query], first) => {
    if (aside[first] !== undefined) return;
    const together = [...edges.keys()].filter((place) => edges[place][0] === layer && edges[place][1] === query);
    together.sort((one, other) => edges[one][2] - edges[other][2]);
    let left = -together.reduce((sum, place) => sum + widths[place], 0) / 2;
    for (const place of together) {
      aside[place] = left + widths[place] / 2;
      left += widths[place];
    }
  });
  return aside;
}

// The curves of edges: from the query's line, at the layer of the edge, down to the key.
function curvesOf(edges, across, height, pixels) {
  const widths = widthsOf(edges);
  const aside = asideOf(edges, widths);
  return edges.map(([, query, key, , attribution, crosses], place) => {
    const [x0, x1] = [across.get(query) + aside[place] / pixels.x, across.get(key)];
    const [y0, y1] = [height.get(key) + 1, height.get(key)];
    const up = (4 / 3) * ((x1 > x0 ? aside[place] : -aside[place]) / pixels.y); // parallel edges must not overlap
    return {
      ...{ x0, y0, x1, y1, cx0: x0, cy0: y0 - 0.55 + up, cx1: x1, cy1: y1 + 0.55 + up, width: widths[place] },
      colour: attribution < 0 ? ORANGE : PURPLE,
      dash: crosses ? "dashed" : "solid",
    };
  });
}

// A token is drawn at the height of its edge's layer, below the token that looks at it.
function drawTree({ names: unique, tokens }, layers, edges) {
  const figure = model("tree"),
    bands = bandsOf(layers, edges),
    top = bands.length,
    height = new Map(),
    above = new Map();
  for (const [layer, query, key, score, attribution] of edges) {
    height.set(
      key,
      bands.findIndex((band) => band.includes(layer)),
    );
    if (!height.has(query)) height.set(query, top);
    const numbers = `attribution ${signed(attribution)}, ${percent(Math.abs(score))} of the total`;
    const look = `${unique[query]} looks at ${unique[key]} in layer ${layer}`;
    above.set(key, [attribution, `${look}: ${numbers}`]);
  }
  const within = [...height.keys()].sort((one, other) => one - other);
  const across = new Map(within.map((token, rank) => [token, rank]));
  const heights = within.map((token) => height.get(token));
  const stem = new Map(height); // down to the lowest layer in which a token looks at others
  for (const [, query, key] of edges) stem.set(query, Math.min(stem.get(query), height.get(key) + 1));
  const wide = Math.min(document.getElementById("tree").clientWidth - 110, 64 * Math.max(within.length, 3));
  const high = Math.max(150, Math.min(72 * (top + 1), 500));
  const hasRoom = wide / within.length >= 48;
  model("nodes source").data = {
    x: [...within.keys()],
    y: heights,
    foot: within.map(() => -0.6),
    stem: within.map((token) => stem.get(token)),
    token: within,
    says: within.map((token) => above.get(token)?.[1] ?? `${unique[token]}, the top of the tree`),
    raises: within.map((token) => (hasRoom && above.get(token)?.[0] >= 0 ? signed(above.get(token)[0]) : "")),
    lowers: within.map((token) => (hasRoom && above.get(token)?.[0] < 0 ? signed(above.get(token)[0]) : "")),
  };
  const curves = curvesOf(edges, across, height, { x: wide / within.length, y: high / (top + 1) });
  model("edges source").data = Object.fromEntries(
    Object.keys(curves[0]).map((name) => [name, curves.map((curve) => curve[name])]),
  );
  span(figure.x_range, -0.6, within.length - 0.4);
  span(figure.y_range, -0.6, top + 0.4);
  const names = within.map((token) => tokens[token]);
  label(figure.below[0], namesThatFit(names, heights, figure.x_range, wide, 12), 12);
  const named = bands.map((band, row) => [
    row,
    band.length > 1 ? `layers ${band[0]}\u2013${band.at(-1)}` : `layer ${band[0]}`,
  ]);
  label(figure.left[0], new Map([...named, [top, "top"]]), 12);
  Object.assign(figure, { frame_width: Math.floor(wide), frame_height: Math.floor(high) });
}
