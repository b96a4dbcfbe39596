// Markdown to nodes: paragraphs, headings, lists, quotations, code, tables. A model's text never reaches a parser of markup.

import { el } from "./dom.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ROW = /^\s*\|.*\|\s*$/;
const DASHES = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 6;

/** `codeTools` makes the buttons of a code block, given its text. */
export function markdown(text, codeTools = () => []) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), codeTools, 0));
  return fragment;
}

function blocks(lines, codeTools, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    const make = [fenced, heading, rule, quotation, list, table].find((kind) => kind.begins(lines, at, depth)) ?? paragraph;
    const { node, next } = make(lines, at, codeTools, depth);
    if (node) found.push(node);
    at = next;
  }
  return found;
}

function fenced(lines, at, codeTools) {
  const [, fence, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], fence)) end++;
  const text = lines.slice(at + 1, end).join("\n"); // one that is not closed is still being written
  const head = el("div", { class: "code-head" }, el("span", { text: language }), codeTools(text));
  return { node: el("div", { class: "code" }, head, el("pre", { tabindex: 0 }, el("code", { text }))), next: end + 1 };
}
fenced.begins = (lines, at) => FENCE.test(lines[at]);

function closes(line, fence) {
  const found = line.trim();
  return found.length >= fence.length && [...found].every((letter) => letter === fence[0]);
}

function heading(lines, at) {
  const [, marks, text] = HEADING.exec(lines[at]);
  // Below the page's own headings.
  return { node: el(`h${Math.min(6, marks.length + 2)}`, {}, inline(text)), next: at + 1 };
}
heading.begins = (lines, at) => HEADING.test(lines[at]);

function rule(lines, at) {
  return { node: el("hr"), next: at + 1 };
}
rule.begins = (lines, at) => RULE.test(lines[at]);

function quotation(lines, at, codeTools, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inside = lines.slice(at, end).map((line) => QUOTE.exec(line)[1]);
  return { node: el("blockquote", {}, blocks(inside, codeTools, depth + 1)), next: end };
}
quotation.begins = (lines, at, depth) => depth < DEEPEST && QUOTE.test(lines[at]);

function list(lines, at, codeTools, depth) {
  const first = ITEM.exec(lines[at]);
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (item && item[1].length <= indent + 1 && item[1].length >= indent - 1 && /\d/.test(item[2]) === ordered) {
      items.push([item[3]]);
    } else if (belongs(lines, end, indent)) {
      items.at(-1).push(lines[end].replace(new RegExp(`^\\s{0,${indent + (ordered ? 3 : 2)}}`), ""));
    } else break;
    end++;
  }
  const start = ordered && Number.parseInt(first[2], 10) !== 1 ? { start: Number.parseInt(first[2], 10) } : {};
  return {
    node: el(
      ordered ? "ol" : "ul",
      start,
      items.map((inside) => el("li", {}, contents(inside, codeTools, depth))),
    ),
    next: end,
  };
}
list.begins = (lines, at, depth) => depth < DEEPEST && ITEM.test(lines[at]) && !RULE.test(lines[at]);

/** A line that is no item of its own: further in, or empty with a line of the list behind it, or going on with a sentence. */
function belongs(lines, at, indent) {
  const line = lines[at];
  if (!line.trim()) return at + 1 < lines.length && (/^\s+\S/.test(lines[at + 1]) || ITEM.test(lines[at + 1]));
  if (line.search(/\S/) > indent) return true;
  return Boolean(lines[at - 1].trim()) && plain(lines, at);
}

/** An item of one paragraph has no paragraph's margins. */
function contents(lines, codeTools, depth) {
  const found = blocks(lines, codeTools, depth + 1);
  return found.flatMap((node, place) => (node.tagName === "P" && (place === 0 || found.length === 1) ? [...node.childNodes] : [node]));
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && ROW.test(lines[end])) end++;
  const cells = (line, tag) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => el(tag, tag === "th" ? { scope: "col" } : {}, inline(cell.trim())));
  const head = el("thead", {}, el("tr", {}, cells(lines[at], "th")));
  const body = el(
    "tbody",
    {},
    lines.slice(at + 2, end).map((line) => el("tr", {}, cells(line, "td"))),
  );
  return { node: el("div", { class: "table", tabindex: 0 }, el("table", {}, head, body)), next: end };
}
table.begins = (lines, at) => ROW.test(lines[at]) && DASHES.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("-");

function paragraph(lines, at) {
  let end = at;
  while (end < lines.length && plain(lines, end)) end++;
  const next = end > at ? end : at + 1;
  const text = lines
    .slice(at, next)
    .map((line) => line.trim())
    .join("\n");
  return { node: text ? el("p", {}, inline(text)) : null, next };
}

function plain(lines, at) {
  const line = lines[at];
  const other = [FENCE, HEADING, RULE, QUOTE, ITEM].some((kind) => kind.test(line)) || table.begins(lines, at, 0);
  return line.trim() !== "" && !other;
}
