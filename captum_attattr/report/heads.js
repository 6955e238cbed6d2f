// Small maps of all heads on one canvas, and the looks of a head as lines between words.

const SVG = "http://www.w3.org/2000/svg";
const MOST_LINES = 60;
const drawn = (name, settings = {}, ...children) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(settings)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// Where the small maps are on the canvas, in CSS pixels.
function grid(path, width) {
  const gap = 2,
    margin = 26;
  const cell = Math.max(6, Math.min(46, Math.floor((width - margin) / path.heads) - gap));
  return { cell, gap, margin, wide: margin + path.heads * (cell + gap), high: path.layers.length * (cell + gap) + 16 };
}

// The strongest entry in each block of a head's matrix, so that a small map shows what a large one holds.
function pooled(path, head, pieces, side) {
  const { whole } = path.shares,
    start = head * pieces * pieces,
    found = new Float64Array(side * side);
  const blocks = Array.from({ length: pieces }, (_, piece) => Math.floor((piece * side) / pieces));
  for (let query = 0; query < pieces; query++)
    for (let key = 0; key < pieces; key++) {
      const number = whole[start + query * pieces + key],
        place = blocks[query] * side + blocks[key];
      if (Math.abs(number) > Math.abs(found[place])) found[place] = number;
    }
  return found;
}

const colours = palette.map((name) => [1, 3, 5].map((place) => parseInt(name.slice(place, place + 2), 16)));

function drawThumbs(path, pieces, state) {
  const canvas = document.getElementById("thumbs"),
    { cell, gap, margin, wide, high } = grid(path, canvas.parentElement.clientWidth / 2 - 10);
  const sharp = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: wide * sharp, height: high * sharp });
  Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
  const pen = canvas.getContext("2d"),
    side = Math.min(pieces, Math.floor(cell * sharp));
  pen.scale(sharp, sharp);
  pen.imageSmoothingEnabled = false;
  pen.font = `10px ${FONT}`;
  pen.fillStyle = getComputedStyle(canvas).color;
  const small = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const ink = small.getContext("2d"),
    image = ink.createImageData(side, side);
  const maps = path.layers.map((_, layer) =>
    Array.from({ length: path.heads }, (_, head) => pooled(path, layer * path.heads + head, pieces, side)),
  );
  const steps = path.shares.scales;
  const strongest = (layer, head) => reach(maps[layer][head]) * steps[layer * path.heads + head];
  const ofAll = reach(maps.flatMap((row, layer) => row.map((_, head) => strongest(layer, head))));
  maps.forEach((row, layer) => {
    const y = (path.layers.length - 1 - layer) * (cell + gap);
    if (cell >= 9) pen.fillText(String(path.layers[layer]), 2, y + cell / 2 + 4);
    const ofLayer = reach(row.map((_, head) => strongest(layer, head)));
    row.forEach((map, head) => {
      const most = { part: strongest(layer, head), common: ofAll, layer: ofLayer }[state.scale] || 1;
      const step = steps[layer * path.heads + head] / most;
      map.forEach((number, place) => {
        const colour = colours[Math.round(((colours.length - 1) * (Math.max(-1, Math.min(1, number * step)) + 1)) / 2)];
        image.data.set([...colour, 255], 4 * place);
      });
      ink.putImageData(image, 0, 0);
      const x = margin + head * (cell + gap);
      pen.drawImage(small, x, y, cell, cell);
      pen.strokeStyle = "#c9c6d1";
      pen.lineWidth = 0.5;
      pen.strokeRect(x, y, cell, cell);
      if (state.layer === layer && state.head === head) {
        pen.strokeStyle = "#0b6e69";
        pen.lineWidth = 2;
        pen.strokeRect(x - 1, y - 1, cell + 2, cell + 2);
      }
    });
  });
  const every = Math.ceil(16 / (cell + gap));
  for (let head = 0; head < path.heads; head += every)
    pen.fillText(String(head), margin + head * (cell + gap), high - 3);
}

// The head under a point of the canvas, as [layer, head].
function headAt(path, event) {
  const canvas = document.getElementById("thumbs"),
    { cell, gap, margin } = grid(path, canvas.parentElement.clientWidth / 2 - 10);
  const head = Math.floor((event.offsetX - margin) / (cell + gap)),
    row = Math.floor(event.offsetY / (cell + gap));
  const inside = event.offsetX >= margin && head < path.heads && row < path.layers.length;
  return inside ? [path.layers.length - 1 - row, head] : null;
}

// Lines from each word on the left to those on the right that it looks at, as wide as the look is strong.
function drawLines(units, matrix, title) {
  const svg = document.getElementById("lines"),
    count = units.tokens.length,
    every = [...units.tokens.keys()];
  const pairs = strongestPairs(matrix, count, every, every, null, MOST_LINES);
  const most = pairs.length ? Math.abs(pairs[0][2]) : 1;
  const shown = count <= 40 ? every : [...new Set(pairs.flatMap(([query, key]) => [query, key]))].sort((a, b) => a - b);
  const height = new Map(shown.map((unit, row) => [unit, 14 + row * 18]));
  const [left, right] = [110, 250];
  const word = (unit, x, anchor) =>
    drawn("text", { x, y: height.get(unit) + 4, "text-anchor": anchor, "font-size": 12, fill: "currentColor" },
      shortened(units.tokens[unit], 12, 100));
  const line = ([query, key, number]) =>
    drawn(
      "line",
      {
        x1: left, y1: height.get(query), x2: right, y2: height.get(key),
        stroke: number < 0 ? ORANGE : PURPLE, "stroke-width": Math.max(0.5, (5 * Math.abs(number)) / most),
        "stroke-opacity": 0.25 + (0.7 * Math.abs(number)) / most,
      },
      drawn("title", {}, `${units.names[query]} \u2192 ${units.names[key]} ${signed(number)}`),
    );
  svg.setAttribute("viewBox", `0 0 360 ${20 + 18 * shown.length}`);
  svg.replaceChildren(
    drawn("rect", { x: left, y: 0, width: right - left, height: 20 + 18 * shown.length, fill: "#fff" }),
    ...[...pairs].reverse().map(line),
    ...shown.map((unit) => word(unit, left - 6, "end")),
    ...shown.map((unit) => word(unit, right + 6, "start")),
  );
  document.getElementById("lines-title").textContent = title;
}
