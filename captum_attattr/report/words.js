// Words: the texts of the page, and the buttons for tokens and pairs.

const MOST_LABELS = 8;
const $ = (id) => document.getElementById(id);
const made = (name, settings = {}, ...children) => {
  const element = Object.assign(document.createElement(name), settings);
  element.append(...children);
  return element;
};

// The parts that stay the same for a sentence: prediction, legend, the sliders' ends, the foot.
function describe(sentence) {
  const { what, output, regression } = sentence;
  $("answer").textContent = regression
    ? `Explained: the model\u2019s ${what}, ${output.toFixed(4)}`
    : `Prediction: ${sentence.prediction}. Explained: ${what}, ${output.toFixed(4)}`;
  $("labels").replaceChildren(...(regression ? [] : likelyLabels(sentence)));
  $("first").textContent = sentence.tokens[0];
  $("against").textContent = `against: lowers the ${what}`;
  $("for").textContent = `for: raises the ${what}`;
  $("ramp").replaceChildren(
    ...palette.filter((_, place) => place % 2 === 0).map((colour) => made("i", { style: `background:${colour}` })),
  );
  $("layer").max = sentence.layers.length;
  $("head").max = sentence.heads;
  $("threshold").max = sentence.tree.thresholds.length - 1;
  foot(sentence);
}

// The most probable labels, and the number of the others.
function likelyLabels({ labels, probabilities }) {
  const places = [...labels.keys()].sort((one, other) => probabilities[other] - probabilities[one]);
  const shown = places.slice(0, MOST_LABELS).map((place) => {
    const meter = made("meter", { min: 0, max: 1, value: probabilities[place], ariaLabel: labels[place] });
    return made("span", {}, `${labels[place]} ${probabilities[place].toFixed(3)} `, meter);
  });
  const left = labels.length - shown.length;
  return left ? [...shown, `and ${left} more`] : shown;
}

function foot(sentence) {
  const { settings, baseline, delta, norms, layers, output, what } = sentence;
  const joint = sentence.layersAddUp;
  $("completeness-hint").textContent =
    `${joint ? "The" : "Each layer\u2019s"} attributions sum to the ${what}, ${output.toFixed(4)}, minus its value ` +
    (settings.baseline === "no attention"
      ? `without ${joint ? "all attention" : "that layer\u2019s attention"}.`
      : `with the attention at its baseline (${settings.baseline}).`);
  const row = (cell, ...texts) => made("tr", {}, ...texts.map((text) => made(cell, { textContent: text })));
  const body = baseline.map((start, place) => {
    const line = row(
      "td",
      joint ? "all layers" : `layer ${layers[place]}`,
      start.toFixed(4),
      signed(output - start + delta[place]),
      delta[place].toExponential(0),
    );
    if (Math.abs(delta[place]) > 0.01 * norms[place] + 1e-6) line.lastChild.className = "wide";
    return line;
  });
  $("completeness").replaceChildren(row("th", "", "at the baseline", "attributions", "integration error"), ...body);
  $("settings").replaceChildren(
    ...Object.entries(settings).flatMap(([name, value]) => [
      made("dt", { textContent: name.replaceAll("_", " ") }),
      made("dd", { textContent: value }),
    ]),
  );
}

// A button for each token; `on` has the callbacks choose(token) and light(token or null).
function tokenButtons(sentence, on) {
  $("tokens").className = sentence.tokens.length > 60 ? "many" : "";
  const buttons = sentence.tokens.map((token, place) => {
    const piece = token.startsWith("##") && token.length > 2;
    const kinds = { special: sentence.special[place], piece, second: place === sentence.second };
    const className = Object.keys(kinds)
      .filter((kind) => kinds[kind])
      .join(" ");
    const button = made("button", { type: "button", className, textContent: token, tabIndex: place ? -1 : 0 });
    button.addEventListener("click", () => on.choose(place));
    for (const start of ["pointerenter", "focus"]) button.addEventListener(start, () => on.light(place));
    for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => on.light(null));
    return button;
  });
  $("tokens").replaceChildren(...buttons);
}

// The tab key stops once at the tokens; arrow keys, Home and End move among them.
function moveAmongTokens(event) {
  const buttons = [...$("tokens").children],
    last = buttons.length - 1,
    here = buttons.indexOf(event.target);
  const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last }[event.key];
  if (next === undefined || here < 0) return;
  event.preventDefault();
  buttons[here].tabIndex = -1;
  const found = buttons[Math.min(Math.max(next, 0), last)];
  found.tabIndex = 0;
  found.focus();
}

// The tokens' colours: their scores, or their attributions with the chosen one.
function colourTokens(sentence, scores, chosen, pressed) {
  const most = reach(scores) || 1;
  const how = chosen === null ? "" : ` with ${sentence.names[chosen]}, both ways`;
  [...$("tokens").children].forEach((button, place) => {
    const part = scores[place] / most;
    button.style.background = colourOf(part);
    button.style.color = Math.abs(part) > 0.6 ? "#fff" : "";
    button.setAttribute("aria-pressed", place === pressed);
    button.title = `${sentence.names[place]}: ${signed(scores[place])}${how}`;
  });
}

// A button for each pair: query and key, attribution, attention.
function listPairs(sentence, pairs, on) {
  const buttons = pairs.map(([query, key, attribution]) => {
    const weight = sentence.weights[query * sentence.tokens.length + key];
    const button = made(
      "button",
      { type: "button" },
      made("span", { textContent: `${sentence.names[query]} \u2192 ${sentence.names[key]}` }),
      made("span", { className: `number ${attribution < 0 ? "against" : "for"}`, textContent: signed(attribution) }),
      made("span", { className: "number", textContent: weight.toFixed(3) }),
    );
    button.addEventListener("click", () => on.choose(query));
    for (const start of ["pointerenter", "focus"]) button.addEventListener(start, () => on.mark([query, key]));
    for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => on.mark(null));
    return made("li", {}, button);
  });
  $("pairs").replaceChildren(...buttons);
}

const HINT = "Rows look at columns. Pointing at a pair names it in both maps, a click chooses its row, dragging zooms.";

function namePair(sentence, pair) {
  if (!pair) return $("pair").replaceChildren(made("span", { className: "hint", textContent: HINT }));
  const [query, key] = pair,
    place = query * sentence.tokens.length + key,
    attribution = sentence.matrix[place];
  return $("pair").replaceChildren(
    made("strong", { textContent: `${sentence.names[query]} \u2192 ${sentence.names[key]}` }),
    " attribution ",
    made("span", { className: attribution < 0 ? "against" : "for", textContent: signed(attribution) }),
    `, attention ${sentence.weights[place].toFixed(3)}`,
  );
}

// The names of the current view: titles, sliders, status.
function nameView(sentence, { layer, head, token }, many) {
  const layerName = layer === null ? "all layers" : `layer ${sentence.layers[layer]}`;
  const headName = head === null ? "all heads" : `head ${head}`;
  slide("layer", layer === null ? 0 : layer + 1, layerName);
  slide("head", head === null ? 0 : head + 1, headName);
  const chosen = token === null ? null : `\u201c${sentence.names[token]}\u201d`;
  $("shown").textContent = `Shown: ${layerName}, ${headName}${chosen ? `, pairs of ${chosen}` : ""}`;
  $("all").hidden = layer === null && head === null && token === null;
  $("heads-title").textContent = chosen ? `Heads: attributions of the pairs of ${chosen}` : "Heads";
  $("shares-title").textContent = `Attribution for the ${sentence.what}${many ? ", summed" : ""}`;
  $("attention-title").textContent = `Attention${many ? ", mean over heads" : ""}`;
}

function slide(slider, value, name) {
  $(slider).value = value;
  $(slider).setAttribute("aria-valuetext", name);
  $(`${slider}-name`).textContent = name;
}

const percent = (part) => `${Number((100 * part).toPrecision(2))}%`;

function nameTree({ what, second, layersAddUp, layers, tree }, edges, threshold) {
  $("tree").hidden = edges.length === 0;
  const crossing = second === null ? "" : ", dashed ones cross the two texts";
  const apart =
    layersAddUp || layers.length < 2
      ? ""
      : " These are layerwise attributions, which do not add up over layers. Joint ones do.";
  $("tree-hint").textContent = edges.length
    ? "How information flows to the top: an edge leads from a token down to one that it looks at, in the layer of " +
      "that look. Its width and number are the attribution in this layer alone (the map sums over layers). " +
      `Purple edges raise the ${what}, orange ones lower it${crossing}. Except for the strongest look from the top, ` +
      `those of less than ${percent(threshold)} of the total, ${tree.total.toPrecision(3)}, are left out.${apart} ` +
      "A click on a token chooses it."
    : "No token looks at another one: the tree has no edges.";
}
