// Markdown that is still being written, as it can be shown: without the beginnings of marks that may yet mean something else, and with
// what is open closed, so that nothing jumps when the next piece comes.

// Expressions here have one way to match a text: with several, a long line of spaces would be tried in every one of them.
const FENCE = /^(?: {0,3}(?:(?:[-*+>]|\d{1,9}[.)])\s+)+|\s*)(`{3,}|~{3,})/;
// A last line of these alone may become a rule, a heading's underline, a list, a fence or a table's second row.
const MARKS = /^(?:[-*_=+#`~|: \t]+|\d{1,9}[.)]?|\$\$?|\\[[(]?|<[^>\n]*)$/;
const LAST_PART = /\n(?=[ \t]*(?:[-*+#>|]|\d{1,9}[.)])[ \t]?)|\n[ \t]*\n/g;
const LONGEST_FORMULA = 80; // characters that a $ with no partner may hold back

/** What to show of a text that goes on. */
export function presentable(text) {
  const { fence, behind } = fences(text);
  const start = text.lastIndexOf("\n") + 1;
  const line = text.slice(start);
  if (fence) return fence.startsWith(line.trim()) && line.trim() ? text.slice(0, start) : text;
  if (onlyMarks(line)) return presentable(text.slice(0, Math.max(0, start - 1)));
  const head = tableHead(text);
  if (head !== null) return text.slice(0, head);
  const from = Math.max(behind, lastPart(text));
  return text.slice(0, from) + closed(text.slice(from));
}

function onlyMarks(line) {
  const marks = line.replace(/^[ \t>]+/, "").trimEnd();
  return marks ? MARKS.test(marks) : /[ \t]$/.test(line);
}

/** The fence of code that is open at the text's end, or "", and the place behind the last one that was closed. */
function fences(text) {
  let fence = "";
  let behind = 0;
  let at = 0;
  for (const line of text.split("\n")) {
    at += line.length + 1;
    const found = FENCE.exec(line)?.[1];
    if (!fence && found) fence = found;
    else if (fence && found && found[0] === fence[0] && found.length >= fence.length && line.trim() === found) {
      fence = "";
      behind = Math.min(at, text.length);
    }
  }
  return { fence, behind };
}

/** Where the rows of a table begin of which there is only the first, and no line that says so; null where there is none. */
function tableHead(text) {
  const found = /(?:^|\n)[ \t]*\|[^\n]*(?:\n[ \t|:-]*)?$/.exec(text);
  if (!found) return null;
  const start = found.index + (text[found.index] === "\n" ? 1 : 0);
  const before = text.slice(0, start).trimEnd().split("\n").at(-1) ?? "";
  return before.trim().startsWith("|") ? null : start;
}

function lastPart(text) {
  let from = 0;
  for (const found of text.matchAll(LAST_PART)) from = found.index;
  return from;
}

/** A part with its open marks closed; a mark with nothing behind it, and half a link or formula, waits. */
function closed(text) {
  const open = []; // {mark, at} of emphasis, from the outermost
  let at = 0;
  while (at < text.length) {
    const letter = text[at];
    if (letter === "\\" || letter === "$") {
      const end = formulaEnd(text, at);
      if (end < 0) return ended(text.slice(0, at), open);
      at = end;
    } else if (letter === "`") {
      const ticks = /^`+/.exec(text.slice(at))[0];
      const end = text.indexOf(ticks, at + ticks.length);
      if (end < 0) return at + ticks.length < text.length ? ended(text + ticks, open) : ended(text.slice(0, at), open);
      at = end + ticks.length;
    } else if (letter === "[") {
      const end = linkEnd(text, at);
      if (end < 0) return ended(halfLink(text, at), open);
      at = end;
    } else if (letter === "*" || letter === "_" || letter === "~") {
      const end = at + /^(\*+|_+|~+)/.exec(text.slice(at, at + 100))[0].length;
      if (end === text.length) return ended(text.slice(0, at), open); // the beginning of a mark, or a part of its end
      emphasis(text, at, end, open);
      at = end;
    } else at++;
  }
  return ended(text, open);
}

/** Take in a run of * or _ or ~ from `at` to `end`. */
function emphasis(text, at, end, open) {
  const run = text.slice(at, end);
  const before = text[at - 1] ?? " ";
  const after = text[end];
  const within = run[0] === "_" && /\w/.test(before) && /\w/.test(after);
  if (within || (run[0] === "~" && run.length !== 2)) return;
  if (!/\s/.test(before) && open.at(-1)?.mark[0] === run[0]) {
    let left = run.length;
    while (left > 0 && open.at(-1)?.mark[0] === run[0]) {
      const { mark, at: from } = open.pop();
      if (mark.length > left) open.push({ mark: mark.slice(left), at: from });
      left -= mark.length;
    }
  } else if (!/\s/.test(after)) open.push({ mark: run, at });
}

/** The text with its marks closed; those with nothing behind them wait. */
function ended(text, open) {
  let shown = text;
  const left = [...open];
  while (left.length && shown.trimEnd().length === left.at(-1).at + left.at(-1).mark.length) shown = shown.slice(0, left.pop().at);
  const bare = shown.trimEnd();
  return left.length ? bare + left.map(({ mark }) => mark).reverse().join("") + shown.slice(bare.length) : shown;
}

/** The place behind a formula, or behind a character that begins none; -1 when it has no end yet. */
function formulaEnd(text, at) {
  if (text[at] === "\\") {
    const close = { "(": "\\)", "[": "\\]" }[text[at + 1]];
    if (!close) return at + 1 < text.length ? at + 2 : -1;
    const end = text.indexOf(close, at + 2);
    return end < 0 ? -1 : end + 2;
  }
  if (text[at + 1] === "$") {
    const end = text.indexOf("$$", at + 2);
    return end < 0 ? -1 : end + 2;
  }
  if (/\w/.test(text[at - 1] ?? " ")) return at + 1;
  if (at + 1 === text.length) return -1;
  if (/[\s\d]/.test(text[at + 1])) return at + 1;
  const end = text.indexOf("$", at + 1);
  if (end > 0) return end + 1;
  return text.length - at > LONGEST_FORMULA ? at + 1 : -1;
}

/** The place behind a link, or behind a bracket that begins none; -1 where it may still become one. */
function linkEnd(text, at) {
  const close = text.indexOf("]", at);
  if (close < 0) return text.length - at > 200 ? at + 1 : -1;
  if (text[close + 1] === undefined) return -1;
  if (text[close + 1] !== "(") return at + 1;
  const end = text.indexOf(")", close);
  return end < 0 ? (text.length - close > 500 ? at + 1 : -1) : end + 1;
}

/** Of half a link the words are shown; a picture waits. */
function halfLink(text, at) {
  if (text[at - 1] === "!") return text.slice(0, at - 1);
  const close = text.indexOf("]", at);
  return text.slice(0, at) + text.slice(at + 1, close < 0 ? text.length : close);
}
