// Numbers: packed matrices, their sums over heads, layers and pieces, and scores of words, pairs and heads.

async function unpack({ bits, scales, numbers }) {
  const packed = atob(numbers);
  const bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  return { scales, whole: bits === 8 ? new Int8Array(buffer) : new Int16Array(buffer) };
}

// The heads in view: of all layers (layer null) or one, all heads (head null) or one.
function chosenHeads(path, { layer, head }) {
  const chosen = [];
  for (let l = 0; l < path.layers.length; l++)
    for (let h = 0; h < path.heads; h++)
      if ((layer === null || layer === l) && (head === null || head === h)) chosen.push(l * path.heads + h);
  return chosen;
}

// (T, T), row by row: the sum of the chosen heads' matrices, times a factor.
function sumOf({ scales, whole }, heads, tokens, factor = 1) {
  const size = tokens * tokens,
    sum = new Float64Array(size);
  for (const head of heads) {
    const scale = scales[head] * factor,
      start = head * size;
    for (let place = 0; place < size; place++) sum[place] += scale * whole[start + place];
  }
  return sum;
}

// (U, U): a matrix of pieces, summed over the pieces of each unit as queries and keys.
function joined(matrix, { owners, tokens }) {
  const pieces = owners.length,
    units = tokens.length;
  if (pieces === units) return matrix;
  const sum = new Float64Array(units * units);
  for (let query = 0; query < pieces; query++) {
    const row = owners[query] * units,
      start = query * pieces;
    for (let key = 0; key < pieces; key++) sum[row + owners[key]] += matrix[start + key];
  }
  return sum;
}

// The same of attention: the mean over the pieces of a query.
function joinedAttention(matrix, units) {
  const found = joined(matrix, units),
    count = units.tokens.length;
  if (found === matrix) return found;
  const sizes = new Array(count).fill(0);
  for (const owner of units.owners) sizes[owner]++;
  for (let place = 0; place < found.length; place++) found[place] /= sizes[Math.floor(place / count)];
  return found;
}

// Each head's attribution; with a unit, only of the pairs with this unit.
function headScores(path, units, unit) {
  const pieces = units.owners.length,
    { scales, whole } = path.shares;
  const own = units.owners.map((owner) => owner === unit);
  return path.layers.map((_, layer) =>
    Array.from({ length: path.heads }, (_, number) => {
      const head = layer * path.heads + number,
        start = head * pieces * pieces;
      let sum = 0;
      for (let query = 0; query < pieces; query++) {
        const row = start + query * pieces,
          all = unit === null || own[query];
        for (let key = 0; key < pieces; key++) if (all || own[key]) sum += whole[row + key];
      }
      return sum * scales[head];
    }),
  );
}

// One number a unit; with a chosen unit, the attribution of its pairs with each unit, in both directions.
function unitScores(matrix, count, side, chosen, reader) {
  const at = (query, key) => matrix[query * count + key];
  return Array.from({ length: count }, (_, unit) => {
    if (chosen === unit) return at(unit, unit);
    if (chosen !== null) return at(chosen, unit) + at(unit, chosen);
    if (side === "read" && reader !== null) return at(reader, unit);
    let sum = 0;
    for (let other = 0; other < count; other++) sum += side === "sent" ? at(unit, other) : at(other, unit);
    return sum;
  });
}

// Some rows and columns of a matrix, row by row.
function partOf(matrix, count, rows, columns) {
  const part = new Float64Array(rows.length * columns.length);
  rows.forEach((row, down) => {
    columns.forEach((column, across) => {
      part[down * columns.length + across] = matrix[row * count + column];
    });
  });
  return part;
}

// The strongest pairs among some rows and columns; with a unit, only its own.
function strongestPairs(matrix, count, rows, columns, unit, most) {
  const found = [];
  for (const query of rows)
    for (const key of columns) {
      const number = matrix[query * count + key];
      if (number !== 0 && (unit === null || query === unit || key === unit)) found.push([query, key, number]);
    }
  found.sort((one, other) => Math.abs(other[2]) - Math.abs(one[2]));
  return found.slice(0, most);
}

// How strong each row or column of a matrix is: where not all names fit, the strongest are labelled.
function strengths(part, rows, columns) {
  const [down, across] = [new Float64Array(rows), new Float64Array(columns)];
  for (let place = 0; place < part.length; place++) {
    down[Math.floor(place / columns)] += Math.abs(part[place]);
    across[place % columns] += Math.abs(part[place]);
  }
  return [down, across];
}

const reach = (numbers) => numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 0);
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
const magnitude = (numbers) => numbers.reduce((sum, number) => sum + Math.abs(number), 0);

// Three significant digits.
const digits = (number) => {
  const size = Math.abs(number);
  return size === 0 ? "0" : size >= 1e-4 && size < 1e4 ? size.toPrecision(3) : size.toExponential(1);
};
const signed = (number) => (number < 0 ? "\u2212" : "+") + digits(number);
const plainNumber = (number) => (number < 0 ? "\u2212" : "") + digits(number);
const percent = (part) => `${Number((100 * part).toPrecision(2))}%`;
