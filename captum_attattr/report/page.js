// The page: the current choice, kept in the address, and drawing everything again when it changes.

const scripts = [...document.querySelectorAll("script.sentence")];
const sentences = scripts.map((script) => {
  const read = JSON.parse(script.textContent);
  read.regression = read.settings.output === "given";
  const what = read.regression ? "output" : read.settings.output;
  read.what = read.regression && read.labels.length === 1 ? what : `${what} of \u201c${read.labels[read.target]}\u201d`;
  return read;
});
const START = { number: 0, path: 0, layer: null, head: null, token: null, side: "received", scale: "part" };
const state = { ...START, pieces: false, special: false, threshold: 2 };
const MOST_BARS = 60;
let view = null;

// What is drawn: a text, a path, its units (words or pieces), and the matrices of the heads in view.
async function load(number) {
  for (const path of sentences[number].paths)
    if (!path.ready) {
      const packed = ["shares", "attention", "allShares", "allAttention"];
      const found = await Promise.all(packed.map((name) => unpack(path[name])));
      packed.forEach((name, place) => (path[name] = found[place]));
      path.ready = true;
    }
  return sentences[number];
}

async function open(number, chosen = {}) {
  state.number = number;
  $("sentence").value = number;
  $("main").setAttribute("aria-busy", "true");
  await load(number);
  if (state.number !== number) return; // another text was chosen in the meantime
  Object.assign(state, { layer: null, head: null, token: null }, chosen);
  show();
  $("main").setAttribute("aria-busy", "false");
}

// After a change of the text, the path or the units: everything anew.
function show() {
  const sentence = sentences[state.number];
  state.path = Math.min(state.path, sentence.paths.length - 1);
  const path = sentence.paths[state.path],
    units = state.pieces ? sentence.pieces : sentence.words;
  const within = (number, count) => (number !== null && number < count ? number : null);
  Object.assign(state, {
    layer: within(state.layer, path.layers.length),
    head: within(state.head, path.heads),
    token: within(state.token, units.tokens.length),
  });
  view = { sentence, path, units, reader: path.reader === null ? null : units.owners[path.reader] };
  describe(sentence, path);
  $("path").value = state.path;
  $("units").value = state.pieces ? "pieces" : "words";
  $("scale").value = state.scale;
  $("special").checked = state.special;
  for (const radio of document.getElementsByName("side")) radio.checked = radio.value === state.side;
  wordButtons(units, { choose: (token) => choose({ token: state.token === token ? null : token }), light: colour });
  mapOf();
  zoomOut(view.map);
  draw();
  tree();
  point(null);
}

// The rows and columns of the maps: words of the text, or all tokens.
function mapOf() {
  const { units, reader } = view,
    every = [...units.tokens.keys()];
  const own = every.filter((unit) => !units.special[unit]);
  view.map = {
    rows: state.special || !own.length ? every : own.filter((unit) => unit !== reader || own.length === 1),
    columns: state.special || !own.length ? every : own,
    tokens: units.tokens,
    second: units.second,
  };
}

function choose(changes) {
  Object.assign(state, changes);
  draw();
}

function everything() {
  mapOf();
  zoomOut(view.map);
  choose({ layer: null, head: null, token: null });
}

function draw() {
  const { path, units, map } = view,
    pieces = units.owners.length,
    count = units.tokens.length,
    heads = chosenHeads(path, state),
    all = joined(sumOf(path.allShares, [0], pieces), units);
  view.state = state;
  const whole = state.layer === null && state.head === null;
  view.matrix = whole ? all : joined(sumOf(path.shares, heads, pieces), units);
  const weights = whole ? sumOf(path.allAttention, [0], pieces) : sumOf(path.attention, heads, pieces, 1 / heads.length);
  view.weights = joinedAttention(weights, units);
  view.part = partOf(view.matrix, count, map.rows, map.columns);
  view.scores = unitScores(view.matrix, count, "read", null, view.reader);
  const scale = {
    part: () => reach(view.part),
    common: () => reach(all),
    layer: () => reach(joined(sumOf(path.shares, chosenHeads(path, { ...state, head: null }), pieces), units)),
  };
  view.most = scale[state.scale]();
  nameView(view);
  colour();
  const choosing = { choose: (token) => choose({ token }), mark };
  const order = [...view.scores.keys()].sort((a, b) => Math.abs(view.scores[b]) - Math.abs(view.scores[a]));
  const bars = order.slice(0, MOST_BARS).sort((one, other) => one - other);
  listReads(units, view.scores, bars, state.scale === "part" ? reach(view.scores) : view.most, choosing);
  listPairs(units, view.weights, strongestPairs(view.matrix, count, map.rows, map.columns, state.token, 10), choosing);
  drawHeads(path, headScores(path, units, state.token), state);
  drawPairs("shares", map, view.part, -1, view.most, state);
  const looks = partOf(view.weights, count, map.rows, map.columns);
  drawPairs("attention", map, looks, 0, reach(looks), state);
  names();
  drawThumbs(path, pieces, state);
  lines(state.layer, state.head);
  keep();
}

function names() {
  const { map, part } = view;
  labelPairs(map, ...strengths(part, map.rows.length, map.columns.length));
  $("unzoom").hidden = !isZoomed(map);
}

function lines(layer, head) {
  const { path, units } = view,
    pieces = units.owners.length;
  const heads = chosenHeads(path, { layer, head });
  const matrix = layer === null && head === null ? view.matrix : joined(sumOf(path.shares, heads, pieces), units);
  const where = [layer === null ? "all layers" : `layer ${path.layers[layer]}`, head === null ? "all heads" : `head ${head}`];
  drawLines(units, matrix, `Looks: ${where.join(", ")}`);
}

function tree() {
  const { sentence, path } = view,
    [threshold, count] = path.tree.thresholds[state.threshold];
  const edges = path.tree.edges.slice(0, count);
  slide("threshold", state.threshold, percent(threshold));
  nameTree(sentence, path, edges, threshold);
  if (edges.length) drawTree(sentence.words, path.layers, edges);
}

// While the pointer is on a word, the colours show its pairs.
function colour(passing = null) {
  const chosen = passing ?? state.token,
    { units, matrix, reader } = view;
  const scores = unitScores(matrix, units.tokens.length, state.side, chosen, reader);
  colourWords(units, scores, state.scale === "part" ? reach(scores) : view.most, chosen, state.token);
}

function mark(pair) {
  [...$("tokens").children].forEach((button, place) =>
    button.classList.toggle("lit", pair !== null && pair.includes(place)),
  );
}

// The pair under the pointer or the keys, in both maps, as [row, column] of the maps.
let pointed = null;
function point(cell) {
  pointed = cell;
  const pair = cell && [view.map.rows[cell[0]], view.map.columns[cell[1]]];
  mark(pair);
  const box = cell && [cell[1] - 0.5, cell[1] + 0.5, cell[0] - 0.5, cell[0] + 0.5];
  for (const name of ["shares", "attention"]) frame(`${name} pair`, box);
  namePair(view.units, view.matrix, view.weights, pair);
}

// The address says what is shown, so that a link leads to it.
const NUMBERS = ["number", "path", "layer", "head", "token", "threshold"];
function keep() {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state))
    if (value !== ({ ...START, pieces: false, special: false, threshold: 2 })[name]) said.set(name, value);
  history.replaceState(null, "", said.size ? `#${said}` : location.pathname.endsWith("srcdoc") ? "" : "#");
}
function kept() {
  const found = {};
  for (const [name, value] of new URLSearchParams(location.hash.slice(1)))
    if (NUMBERS.includes(name)) found[name] = /^\d+$/.test(value) ? Number(value) : null;
    else if (name === "pieces" || name === "special") found[name] = value === "true";
    else if (name === "side" && ["received", "sent", "read"].includes(value)) found[name] = value;
    else if (name === "scale" && ["part", "common", "layer"].includes(value)) found[name] = value;
  found.number = Math.min(found.number ?? 0, sentences.length - 1);
  found.threshold = Math.min(found.threshold ?? state.threshold, 5);
  return found;
}

// The map as a table, for other programs.
function saveTable() {
  const { map, part, units } = view;
  const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const head = ["", ...map.columns.map((unit) => units.names[unit])].map(cell).join(",");
  const rows = map.rows.map((unit, row) =>
    [cell(units.names[unit]), ...part.slice(row * map.columns.length, (row + 1) * map.columns.length)].join(","),
  );
  const file = URL.createObjectURL(new Blob([[head, ...rows].join("\n")], { type: "text/csv" }));
  made("a", { href: file, download: "attributions.csv" }).click();
  URL.revokeObjectURL(file);
}

const cellAt = ({ x, y }, columns, rows) => {
  const [column, row] = [Math.round(x), Math.round(y)];
  return column >= 0 && column < columns && row >= 0 && row < rows ? [row, column] : null;
};

function listen() {
  model("heads").on_event("tap", (event) => {
    const found = cellAt(event, view.path.heads, view.path.layers.length);
    if (found) chooseHead(found);
  });
  for (const name of ["shares", "attention"]) {
    const at = (event) => cellAt(event, view.map.columns.length, view.map.rows.length);
    model(name).on_event("mousemove", (event) => point(at(event)));
    model(name).on_event("mouseleave", () => point(null));
    model(name).on_event("tap", (event) => at(event) && chooseRow(at(event)));
  }
  model("shares").on_event("rangesupdate", names);
  model("tree").on_event("tap", ({ x, y }) => {
    const { x: across, y: height, token } = model("nodes source").data;
    const found = token.findIndex((_, rank) => Math.abs(across[rank] - x) < 0.5 && Math.abs(height[rank] - y) < 0.4);
    if (found < 0) return;
    const unit = state.pieces ? view.sentence.words.owners.indexOf(token[found]) : token[found];
    choose({ token: state.token === unit ? null : unit });
  });
  const thumbs = $("thumbs");
  thumbs.addEventListener("pointermove", (event) => {
    const found = headAt(view.path, event);
    if (found) lines(...found);
  });
  thumbs.addEventListener("pointerleave", () => lines(state.layer, state.head));
  thumbs.addEventListener("click", (event) => {
    const found = headAt(view.path, event);
    if (found) chooseHead(found);
  });
}

const chooseHead = ([layer, head]) =>
  choose(state.layer === layer && state.head === head ? { layer: null, head: null } : { layer, head });
const chooseRow = ([row]) => {
  const unit = view.map.rows[row];
  choose({ token: state.token === unit ? null : unit });
};

function setUp() {
  const name = ({ text, pair }) => [text, pair].filter((one) => one !== null).join(" | ");
  $("sentence").replaceChildren(
    ...sentences.map((sentence, value) =>
      made("option", { value, textContent: `${value + 1} of ${sentences.length}: ${name(sentence)}` }),
    ),
  );
  $("chooser").hidden = $("texts").hidden = sentences.length < 2;
  const opening = (number) => {
    open(number);
    $("main").scrollIntoView({ block: "start" });
  };
  if (sentences.length > 1) listTexts(sentences, opening);
  $("sentence").addEventListener("change", () => open(Number($("sentence").value)));
  const step = (by) => open((state.number + by + sentences.length) % sentences.length);
  $("before").addEventListener("click", () => step(-1));
  $("after").addEventListener("click", () => step(1));
  for (const radio of document.getElementsByName("side"))
    radio.addEventListener("change", () => choose({ side: radio.value }));
  for (const slider of ["layer", "head"])
    $(slider).addEventListener("input", () =>
      choose({ [slider]: Number($(slider).value) ? Number($(slider).value) - 1 : null }),
    );
  $("threshold").addEventListener("input", () => {
    state.threshold = Number($("threshold").value);
    tree();
    keep();
  });
  $("path").addEventListener("change", () => changed({ path: Number($("path").value), layer: null, head: null }));
  $("units").addEventListener("change", () => changed({ pieces: $("units").value === "pieces", token: null }));
  $("special").addEventListener("change", () => changed({ special: $("special").checked }));
  $("scale").addEventListener("change", () => choose({ scale: $("scale").value }));
  $("all").addEventListener("click", everything);
  $("unzoom").addEventListener("click", () => {
    zoomOut(view.map);
    names();
  });
  $("csv").addEventListener("click", saveTable);
  document.addEventListener("keydown", (event) => event.key === "Escape" && everything());
  $("heads").addEventListener("keydown", overHeads);
  $("shares").addEventListener("keydown", overPairs);
  $("tokens").addEventListener("keydown", moveAmongWords);
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      draw();
      tree();
    }, 120);
  });
  window.addEventListener("hashchange", () => {
    const { number, ...chosen } = { ...START, pieces: false, special: false, ...kept() };
    open(number, chosen);
  });
}

function changed(changes) {
  Object.assign(state, changes);
  show();
}

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const bounded = (number, most) => Math.min(Math.max(number, 0), most);

function overHeads(event) {
  const [down, across] = ARROWS[event.key] ?? [0, 0];
  if (!across && !down) return;
  event.preventDefault();
  const last = [view.path.layers.length - 1, view.path.heads - 1];
  const start = state.layer === null && state.head === null;
  choose(
    start
      ? { layer: last[0], head: 0 }
      : { layer: bounded((state.layer ?? 0) - down, last[0]), head: bounded((state.head ?? 0) + across, last[1]) },
  );
}

function overPairs(event) {
  if (event.key === "Enter" && pointed) return chooseRow(pointed);
  const [down, across] = ARROWS[event.key] ?? [0, 0];
  if (!across && !down) return undefined;
  event.preventDefault();
  const { rows, columns } = view.map;
  return point(
    pointed ? [bounded(pointed[0] + down, rows.length - 1), bounded(pointed[1] + across, columns.length - 1)] : [0, 0],
  );
}

setUp();
listen();
const { number: first, ...chosen } = kept();
open(first, chosen);
