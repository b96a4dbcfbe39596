// What an answer of a file may bring beside its text, each only where it is of its kind: a wrong one would break the page at every visit.

/** The fields of `found` that an answer has on this page. */
export function answerFields(found) {
  const kept = {};
  for (const name of ["reasoning", "model", "end"]) if (typeof found[name] === "string" && found[name]) kept[name] = found[name];
  for (const name of ["tokens", "thoughtTokens"]) {
    if (Array.isArray(found[name]) && found[name].length && found[name].every(isToken)) kept[name] = found[name];
  }
  if (isUsage(found.usage)) kept.usage = found.usage;
  return kept;
}

/** A token as `tokens.js` makes it, with its alternatives. */
function isToken(value) {
  return isPiece(value) && Array.isArray(value.top) && value.top.every(isPiece);
}

function isPiece(value) {
  if (!isObject(value)) return false;
  const { text, bytes, name, logprob } = value;
  const isText = typeof text === "string" && bytes === null;
  const isPart = text === null && Array.isArray(bytes) && bytes.length > 0 && bytes.every((byte) => Number.isInteger(byte) && byte >= 0 && byte < 256);
  const isNamed = text === null && bytes === null && typeof name === "string";
  return (isText || isPart || isNamed) && (logprob === null || logprob === undefined || Number.isFinite(logprob));
}

function isUsage(value) {
  return isObject(value) && [value.tokens, value.seconds, value.prompt ?? 0].every((count) => Number.isFinite(count) && count >= 0);
}

const isObject = (value) => typeof value === "object" && value !== null;
