// Numbers: packed matrices, their sums over heads and layers, and scores of tokens, pairs and heads.

async function unpack({ scales, numbers }) {
  const packed = atob(numbers);
  const bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return { scales, whole: new Int16Array(await new Response(inflated).arrayBuffer()) };
}

// The heads in view: of all layers (layer null) or one, all heads (head null) or one.
function chosenHeads(sentence, { layer, head }) {
  const chosen = [];
  for (let l = 0; l < sentence.layers.length; l++)
    for (let h = 0; h < sentence.heads; h++)
      if ((layer === null || layer === l) && (head === null || head === h)) chosen.push(l * sentence.heads + h);
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

// Each head's attribution; with a token, only of the pairs with this token.
function headScores(sentence, token) {
  const tokens = sentence.tokens.length,
    { scales, whole } = sentence.shares;
  return sentence.layers.map((_, layer) =>
    Array.from({ length: sentence.heads }, (_, number) => {
      const head = layer * sentence.heads + number,
        start = head * tokens * tokens;
      let sum = 0;
      if (token === null) for (let place = 0; place < tokens * tokens; place++) sum += whole[start + place];
      else {
        for (let other = 0; other < tokens; other++)
          sum += whole[start + token * tokens + other] + whole[start + other * tokens + token];
        sum -= whole[start + token * tokens + token];
      }
      return sum * scales[head];
    }),
  );
}

// One number a token; with a chosen token, the attribution of its pairs with each token, in both directions.
function tokenScores(matrix, tokens, side, chosen) {
  const at = (query, key) => matrix[query * tokens + key];
  return Array.from({ length: tokens }, (_, token) => {
    if (chosen === token) return at(token, token);
    if (chosen !== null) return at(chosen, token) + at(token, chosen);
    if (side === "first") return at(0, token);
    let sum = 0;
    for (let other = 0; other < tokens; other++) sum += side === "sent" ? at(token, other) : at(other, token);
    return sum;
  });
}

function strongestPairs(matrix, tokens, token, count) {
  const places = Array.from(matrix.keys()).filter((place) => matrix[place] !== 0);
  const own =
    token === null
      ? places
      : places.filter((place) => Math.floor(place / tokens) === token || place % tokens === token);
  own.sort((one, other) => Math.abs(matrix[other]) - Math.abs(matrix[one]));
  return own.slice(0, count).map((place) => [Math.floor(place / tokens), place % tokens, matrix[place]]);
}

// How strong each token is, as query and as key: where not all names fit, the strongest tokens are labelled.
function tokenStrength(matrix, tokens) {
  const strength = new Float64Array(tokens);
  for (let place = 0; place < matrix.length; place++) {
    strength[Math.floor(place / tokens)] += Math.abs(matrix[place]);
    strength[place % tokens] += Math.abs(matrix[place]);
  }
  return strength;
}

const reach = (numbers) => numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 0);

const signed = (number) => {
  const size = Math.abs(number);
  const digits = size === 0 || size >= 5e-5 ? size.toFixed(4) : size.toExponential(0);
  return (number < 0 ? "\u2212" : "+") + digits;
};
