// LaTeX within Markdown: $…$ and \(…\) in a line, $$…$$, \[…\] and \begin{…} on their own. What stands there is no Markdown.

const SIGN = "$".charCodeAt(0);
const BACKSLASH = "\\".charCodeAt(0);
const LONGEST = 20_000; // characters of a formula
const ENVIRONMENT = /^\\begin\{((?:equation|align|alignat|gather|multline|split|cases|array|[bBpvV]?matrix|smallmatrix)\*?)\}/;

export function mathRules(parser) {
  parser.inline.ruler.before("escape", "math", inlineMath);
  parser.block.ruler.before("fence", "math_block", blockMath, { alt: ["paragraph", "blockquote", "list"] });
}

function inlineMath(state, silent) {
  const { src, pos, posMax } = state;
  const first = src.charCodeAt(pos);
  if (first !== SIGN && first !== BACKSLASH) return false;
  const found = first === SIGN ? betweenSigns(state) : betweenBrackets(state);
  if (!found) return false;
  if (!silent) {
    const token = state.push("math", "", 0);
    Object.assign(token, { content: found.tex, meta: { display: found.display }, markup: src.slice(pos, found.end) });
  }
  state.pos = found.end;
  return true;
}

function betweenSigns(state) {
  const { src, pos: at, posMax: end } = state;
  const twice = src.charCodeAt(at + 1) === SIGN;
  const from = at + (twice ? 2 : 1);
  if (!twice && (/[\p{L}\p{N}$]/u.test(src[at - 1] ?? "") || /\s/.test(src[from] ?? " "))) return null;
  const to = searched(state, twice ? "$$" : "$", from, (first) => closingSign(src, first, Math.min(end, from + LONGEST), twice));
  if (to >= end || src.charCodeAt(to) !== SIGN) return null;
  if (twice) return formula(src.slice(from, to), true, to + 2);
  return to > from && !/[\p{L}\p{N}$]/u.test(src[to + 1] ?? "") && !isProse(src.slice(from, to)) ? formula(src.slice(from, to), false, to + 1) : null;
}

/** The place of the sign that may close a formula, looked for from `to` up to `end`. */
function closingSign(src, to, end, twice) {
  for (; to < end; to++) {
    const code = src.charCodeAt(to);
    if (code === BACKSLASH) to++;
    else if (code === SIGN && (twice ? src.charCodeAt(to + 1) === SIGN : !/\s/.test(src[to - 1]))) return to;
  }
  return to;
}

/** `search(first)` gives the first place, from `first` on, of what closes a formula. What was searched for an earlier formula is not
 * searched again: a text may be full of signs that open one and none that closes it. */
function searched(state, what, from, search) {
  const known = (state.formulaEnds ??= {});
  const { first, to } = known[what] ?? { first: 0, to: -1 };
  const again = first <= from && from <= to;
  known[what] = { first: again ? first : from, to: search(again ? to : from) };
  return known[what].to;
}

/** "$20 for him and 30$": amounts of money, not a formula. */
const isProse = (text) => /^\d[\d.,]*[a-z]?\s+[a-z]{2,}/i.test(text) || text.includes("\n\n");

function betweenBrackets(state) {
  const { src, pos: at, posMax: end } = state;
  const open = src[at + 1];
  if (open !== "(" && open !== "[") return null;
  const close = open === "(" ? "\\)" : "\\]";
  const to = searched(state, close, at + 2, (first) => orBeyond(src.indexOf(close, first)));
  if (to + 2 > end || to - at > LONGEST) return null;
  return formula(src.slice(at + 2, to), open === "[", to + 2);
}

const orBeyond = (place) => (place < 0 ? Infinity : place);

/** A formula says something. */
function formula(tex, display, end) {
  return /[\p{L}\p{N}]/u.test(tex) ? { tex: tex.trim(), display, end } : null;
}

function blockMath(state, startLine, endLine, silent) {
  const lineAt = (line) => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const first = lineAt(startLine);
  const environment = ENVIRONMENT.exec(first);
  const open = environment?.[0] ?? /^(\$\$|\\\[)/.exec(first)?.[0];
  if (!open) return false;
  const close = environment ? `\\end{${environment[1]}}` : open === "$$" ? "$$" : "\\]";
  const lines = [];
  let line = startLine;
  let size = 0;
  let rest = environment ? first : first.slice(open.length);
  for (;;) {
    const to = rest.indexOf(close);
    if (to >= 0) {
      if (rest.slice(to + close.length).trim()) return false; // text goes on behind it: it stands in a line
      lines.push(environment ? rest : rest.slice(0, to));
      break;
    }
    lines.push(rest);
    size += rest.length + 1;
    line++;
    if (size > LONGEST || line >= endLine || state.sCount[line] < state.blkIndent || (!environment && !lineAt(line).trim())) return false;
    rest = lineAt(line);
  }
  const tex = lines.join("\n").trim();
  if (!/[\p{L}\p{N}]/u.test(tex)) return false;
  if (silent) return true;
  const token = state.push("math_block", "", 0);
  Object.assign(token, { block: true, content: tex, map: [startLine, line + 1], markup: open });
  state.line = line + 1;
  return true;
}
