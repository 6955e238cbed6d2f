// The page: the current choice, and drawing everything again when it changes.

const scripts = [...document.querySelectorAll("script.sentence")];
const known = new Map();
const state = { number: 0, layer: null, head: null, token: null, side: "received", alike: false, threshold: 2 };
let sentence = null;

async function load(number) {
  if (!known.has(number)) {
    const read = JSON.parse(scripts[number].textContent);
    [read.shares, read.attention] = await Promise.all([unpack(read.shares), unpack(read.attention)]);
    read.regression = read.settings.output === "given";
    const what = read.regression ? "output" : read.settings.output;
    const alone = read.regression && read.labels.length === 1;
    read.what = alone ? what : `${what} of \u201c${read.labels[read.target]}\u201d`;
    known.set(number, read);
  }
  return known.get(number);
}

async function open(number) {
  state.number = number;
  $("sentence").value = number;
  $("main").setAttribute("aria-busy", "true");
  const found = await load(number);
  if (state.number !== number) return; // another sentence was chosen in the meantime
  sentence = found;
  Object.assign(state, { layer: null, head: null, token: null });
  describe(sentence);
  tokenButtons(sentence, { choose: (token) => choose({ token: state.token === token ? null : token }), light: colour });
  zoomOut(sentence);
  draw();
  tree();
  point(null);
  $("main").setAttribute("aria-busy", "false");
}

function choose(changes) {
  Object.assign(state, changes);
  draw();
}

function everything() {
  zoomOut(sentence);
  choose({ layer: null, head: null, token: null });
}

function draw() {
  const tokens = sentence.tokens.length,
    heads = chosenHeads(sentence, state);
  sentence.matrix = sumOf(sentence.shares, heads, tokens);
  sentence.weights = sumOf(sentence.attention, heads, tokens, 1 / heads.length);
  nameView(sentence, state, heads.length > 1);
  colour();
  const choosing = { choose: (token) => choose({ token }), mark };
  listPairs(sentence, strongestPairs(sentence.matrix, tokens, state.token, 10), choosing);
  drawHeads(sentence, headScores(sentence, state.token), state);
  drawPairs("shares", sentence, sentence.matrix, -1, state);
  drawPairs("attention", sentence, sentence.weights, 0, state);
  names();
}

const names = () => labelPairs(sentence, tokenStrength(sentence.matrix, sentence.tokens.length));

function tree() {
  const [threshold, count] = sentence.tree.thresholds[state.threshold];
  const edges = sentence.tree.edges.slice(0, count);
  slide("threshold", state.threshold, percent(threshold));
  nameTree(sentence, edges, threshold);
  if (edges.length) drawTree(sentence, edges);
}

// While the pointer is on a token, the colours show its pairs.
function colour(passing = null) {
  const chosen = passing ?? state.token;
  const scores = tokenScores(sentence.matrix, sentence.tokens.length, state.side, chosen);
  colourTokens(sentence, scores, chosen, state.token);
}

function mark(pair) {
  [...$("tokens").children].forEach((button, place) =>
    button.classList.toggle("lit", pair !== null && pair.includes(place)),
  );
}

// The pair under the pointer, in both maps.
function point(pair) {
  mark(pair);
  const box = pair && [pair[1] - 0.5, pair[1] + 0.5, pair[0] - 0.5, pair[0] + 0.5];
  for (const name of ["shares", "attention"]) frame(`${name} pair`, box);
  namePair(sentence, pair);
}

function listen() {
  const cell = ({ x, y }, columns, lines) => {
    const [column, line] = [Math.round(x), Math.round(y)];
    return column >= 0 && column < columns && line >= 0 && line < lines ? [line, column] : null;
  };
  model("heads").on_event("tap", (event) => {
    const found = cell(event, sentence.heads, sentence.layers.length);
    if (found)
      choose(
        state.layer === found[0] && state.head === found[1]
          ? { layer: null, head: null }
          : { layer: found[0], head: found[1] },
      );
  });
  for (const name of ["shares", "attention"]) {
    const pairAt = (event) => cell(event, sentence.tokens.length, sentence.tokens.length);
    model(name).on_event("mousemove", (event) => point(pairAt(event)));
    model(name).on_event("mouseleave", () => point(null));
    model(name).on_event("tap", (event) => {
      const pair = pairAt(event);
      if (pair) choose({ token: state.token === pair[0] ? null : pair[0] });
    });
  }
  model("shares").on_event("rangesupdate", names);
  model("tree").on_event("tap", ({ x, y }) => {
    const { x: across, y: height, token } = model("nodes source").data;
    const found = token.findIndex((_, rank) => Math.abs(across[rank] - x) < 0.5 && Math.abs(height[rank] - y) < 0.4);
    if (found >= 0) choose({ token: state.token === token[found] ? null : token[found] });
  });
}

function setUp() {
  $("sentence").replaceChildren(
    ...scripts.map((script, number) =>
      made("option", { value: number, textContent: `${number + 1} of ${scripts.length}: ${script.dataset.name}` }),
    ),
  );
  $("chooser").hidden = scripts.length < 2;
  $("sentence").addEventListener("change", () => open(Number($("sentence").value)));
  const step = (by) => open((state.number + by + scripts.length) % scripts.length);
  $("before").addEventListener("click", () => step(-1));
  $("after").addEventListener("click", () => step(1));
  for (const radio of document.getElementsByName("side"))
    radio.addEventListener("change", () => choose({ side: radio.value }));
  for (const name of ["layer", "head"])
    $(name).addEventListener("input", () =>
      choose({ [name]: Number($(name).value) ? Number($(name).value) - 1 : null }),
    );
  $("threshold").addEventListener("input", () => {
    state.threshold = Number($("threshold").value);
    tree();
  });
  $("alike").addEventListener("change", () => choose({ alike: $("alike").checked }));
  $("all").addEventListener("click", everything);
  document.addEventListener("keydown", (event) => event.key === "Escape" && everything());
  $("heads").addEventListener("keydown", arrows);
  $("tokens").addEventListener("keydown", moveAmongTokens);
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      draw();
      tree();
    }, 120);
  });
}

function arrows(event) {
  const [across, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [
    0, 0,
  ];
  if (!across && !up) return;
  event.preventDefault();
  const last = [sentence.layers.length - 1, sentence.heads - 1];
  const within = (number, most) => Math.min(Math.max(number, 0), most);
  const start = state.layer === null && state.head === null;
  choose(
    start
      ? { layer: last[0], head: 0 }
      : { layer: within((state.layer ?? 0) + up, last[0]), head: within((state.head ?? 0) + across, last[1]) },
  );
}

setUp();
listen();
open(0);
