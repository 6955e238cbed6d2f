// Words: the texts of the page, and the buttons for words and pairs.

const MOST_LABELS = 8;
const $ = (id) => document.getElementById(id);
const made = (name, settings = {}, ...children) => {
  const element = Object.assign(document.createElement(name), settings);
  element.append(...children);
  return element;
};

// The parts that stay the same for a text: answer, legend, the sliders' ends, the foot.
function describe(sentence, path) {
  const { what, regression } = sentence;
  $("answer").textContent = sentence.headline;
  $("sum").textContent = sentence.sum;
  $("labels").replaceChildren(...(regression ? [] : likelyLabels(sentence)));
  $("against").textContent = `against: lowers the ${what}`;
  $("for").textContent = `for: raises the ${what}`;
  $("ramp").replaceChildren(
    ...palette.filter((_, place) => place % 2 === 0).map((colour) => made("i", { style: `background:${colour}` })),
  );
  $("path-switch").hidden = sentence.paths.length < 2;
  $("path").replaceChildren(
    ...sentence.paths.map(({ name }, value) => made("option", { value, textContent: name })),
  );
  $("layer").max = path.layers.length;
  $("head").max = path.heads;
  $("threshold").max = path.tree.thresholds.length - 1;
  foot(sentence, path);
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

function foot({ settings, output, what }, { baseline, delta, norms, layers, addUp }) {
  $("completeness-hint").textContent =
    `${addUp ? "The" : "Each layer\u2019s"} attributions sum to the ${what}, ${plainNumber(output)}, minus its value ` +
    (settings.baseline === "no attention"
      ? `without ${addUp ? "all attention" : "that layer\u2019s attention"}.`
      : `with the attention at its baseline (${settings.baseline}).`);
  const row = (cell, ...texts) => made("tr", {}, ...texts.map((text) => made(cell, { textContent: text })));
  const body = baseline.map((start, place) => {
    const line = row(
      "td",
      addUp ? "all layers" : `layer ${layers[place]}`,
      plainNumber(start),
      signed(output - start + delta[place]),
      delta[place].toExponential(0),
    );
    if (Math.abs(delta[place]) > 0.01 * norms[place] + 1e-6) line.lastChild.className = "wide";
    return line;
  });
  $("completeness").replaceChildren(row("th", "", "at the baseline", "attributions", "integration error"), ...body.reverse());
  $("settings").replaceChildren(
    ...Object.entries(settings).flatMap(([name, value]) => [
      made("dt", { textContent: name.replaceAll("_", " ") }),
      made("dd", { textContent: value }),
    ]),
  );
}

const painted = (element, part) =>
  Object.assign(element.style, { background: colourOf(part), color: Math.abs(part) > 0.6 ? "#fff" : "#1c1b22" });

// The list of all texts: prediction and coloured words; `choose` opens one.
function listTexts(sentences, choose) {
  const rows = sentences.map(({ prediction, probabilities, regression, output, words, received }, number) => {
    const most = reach(received) || 1;
    const answer = regression ? plainNumber(output) : `${prediction} ${Math.max(...probabilities).toFixed(3)}`;
    const coloured = words.tokens.map((word, place) => {
      const element = made("span", { textContent: word, className: words.special[place] ? "special" : "" });
      painted(element, received[place] / most);
      return element;
    });
    const button = made("button", { type: "button" }, made("b", { textContent: answer }), made("span", {}, ...coloured));
    button.addEventListener("click", () => choose(number));
    return made("li", {}, button);
  });
  $("list").replaceChildren(...rows);
}

// A button for each word; `on` has the callbacks choose(unit) and light(unit or null).
function wordButtons({ tokens, special, second }, on) {
  $("tokens").className = tokens.length > 60 ? "many" : "";
  const buttons = tokens.map((token, place) => {
    const piece = token.startsWith("##") && token.length > 2;
    const kinds = { special: special[place], piece, second: place === second };
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

// The tab key stops once at the words; arrow keys, Home and End move among them.
function moveAmongWords(event) {
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

// The words' colours: their scores, or their attributions with the chosen one.
function colourWords({ names }, scores, most, chosen, pressed) {
  const how = chosen === null ? "" : ` with ${names[chosen]}, both ways`;
  [...$("tokens").children].forEach((button, place) => {
    painted(button, scores[place] / (most || 1));
    button.setAttribute("aria-pressed", place === pressed);
    button.title = `${names[place]}: ${signed(scores[place])}${how}`;
  });
}

// A bar for each word that the output's token reads.
function listReads({ names }, scores, order, most, on) {
  const rows = order.map((unit) => {
    const part = Math.min(1, Math.abs(scores[unit]) / (most || 1)),
      side = scores[unit] < 0 ? "against" : "for";
    const bar = made("i", { className: side });
    bar.style.width = `${100 * part}%`;
    const button = made(
      "button",
      { type: "button" },
      made("span", { textContent: names[unit] }),
      made("span", { className: `bar ${side}` }, bar),
      made("span", { className: `number ${side}`, textContent: signed(scores[unit]) }),
    );
    button.addEventListener("click", () => on.choose(unit));
    return made("li", {}, button);
  });
  $("reads").replaceChildren(...rows);
}

// A button for each pair: query and key, attribution, attention.
function listPairs({ names, tokens }, weights, pairs, on) {
  const buttons = pairs.map(([query, key, attribution]) => {
    const weight = weights[query * tokens.length + key];
    const button = made(
      "button",
      { type: "button" },
      made("span", { textContent: `${names[query]} \u2192 ${names[key]}` }),
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

function namePair({ names, tokens }, matrix, weights, pair) {
  if (!pair) return $("pair").replaceChildren(made("span", { className: "hint", textContent: HINT }));
  const [query, key] = pair,
    place = query * tokens.length + key,
    attribution = matrix[place];
  return $("pair").replaceChildren(
    made("strong", { textContent: `${names[query]} \u2192 ${names[key]}` }),
    " attribution ",
    made("span", { className: attribution < 0 ? "against" : "for", textContent: signed(attribution) }),
    `, attention ${weights[place].toFixed(3)}`,
  );
}

// The names of the current view: titles, sliders, status.
function nameView(view) {
  const { path, units, state, map, part, matrix, scores } = view,
    { layer, head, token } = state;
  const layerName = layer === null ? "all layers" : `layer ${path.layers[layer]}`;
  const headName = head === null ? "all heads" : `head ${head}`;
  const many = layer === null || head === null;
  slide("layer", layer === null ? 0 : layer + 1, layerName);
  slide("head", head === null ? 0 : head + 1, headName);
  const chosen = token === null ? null : `\u201c${units.names[token]}\u201d`;
  const where = `${layerName}, ${headName}`;
  $("shown").textContent = `Shown: ${where}${chosen ? `, pairs of ${chosen}` : ""}`;
  $("all").hidden = layer === null && head === null && token === null;
  const reader = path.reader === null ? "every token" : units.names[view.reader];
  $("first").textContent = reader;
  $("reads-title").textContent = `What ${reader} reads: ${signed(total(scores))}${where === "all layers, all heads" ? "" : `, ${where}`}`;
  const ranking = path.ranking && layer === null ? ", a ranking, not shares" : "";
  const kind = state.special ? "All pairs" : state.pieces ? "Between pieces" : "Between words";
  $("shares-title").textContent =
    `${kind}: net ${signed(total(part))}, ${percent(magnitude(part) / (magnitude(matrix) || 1))} of all magnitude; ` +
    `darkest ${digits(view.most)}${where === "all layers, all heads" ? "" : ` (${where})`}${ranking}`;
  $("heads-title").textContent = chosen ? `Heads: attributions of the pairs of ${chosen}` : "Heads";
  $("attention-title").textContent = `Attention${many ? ", mean over heads" : ""} (${where})`;
}

function slide(slider, value, name) {
  $(slider).value = value;
  $(slider).setAttribute("aria-valuetext", name);
  $(`${slider}-name`).textContent = name;
}

function nameTree({ what, words }, { addUp, layers, tree }, edges, threshold) {
  $("tree").hidden = edges.length === 0;
  const crossing = words.second === null ? "" : ", dashed ones cross the two texts";
  const apart =
    addUp || layers.length < 2
      ? ""
      : " These are layerwise attributions, which do not add up over layers. Joint ones do.";
  $("tree-hint").textContent = edges.length
    ? "How information flows to the top: an edge leads from a word down to one that it looks at, in the layer of " +
      "that look. Its width and number are the attribution in this layer alone (the map sums over layers). " +
      `Purple edges raise the ${what}, orange ones lower it${crossing}. Except for the strongest look from the top, ` +
      `those of less than ${percent(threshold)} of the total, ${tree.total.toPrecision(3)}, are left out.${apart} ` +
      "A click on a word chooses it."
    : "No word looks at another one: the tree has no edges.";
}
