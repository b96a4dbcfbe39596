// Markdown within a line: code, bold, italic, struck out, links. What is not closed stays as it was written.

import { el } from "./dom.js";

const SAFE = /^(https?:\/\/|mailto:)/i;
const DEEPEST = 8;
const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];

/** Nodes for a line's text. */
export function inline(text, depth = 0) {
  if (depth > DEEPEST) return [text];
  const nodes = [];
  let plain = "";
  let at = 0;
  const missing = new Set(); // marks with no partner further on: not looked for twice, so that time stays linear
  const flush = () => {
    if (plain) nodes.push(plain);
    plain = "";
  };
  while (at < text.length) {
    const found = piece(text, at, depth, missing);
    if (found) {
      flush();
      nodes.push(...found.nodes);
      at = found.end;
    } else {
      plain += text[at++];
    }
  }
  flush();
  return nodes;
}

function piece(text, at, depth, missing) {
  const letter = text[at];
  if (letter === "\\" && /[\\`*_{}[\]()#+\-.!~|>]/.test(text[at + 1] ?? "")) return { nodes: [text[at + 1]], end: at + 2 };
  if (letter === "\n") return { nodes: [el("br")], end: at + 1 };
  if (letter === "`") return code(text, at, missing);
  if (letter === "[" || (letter === "!" && text[at + 1] === "[")) return link(text, at, depth, missing);
  if (letter === "h" && !/\w/.test(text[at - 1] ?? "")) return bare(text, at);
  if (letter === "*" || letter === "_" || letter === "~") return marked(text, at, depth, missing);
  return null;
}

function code(text, at, missing) {
  const ticks = /^`+/.exec(text.slice(at, at + 20))[0];
  if (missing.has(ticks)) return null;
  let end = text.indexOf(ticks, at + ticks.length);
  while (end > 0 && text[end + ticks.length] === "`") {
    while (text[end] === "`") end++;
    end = text.indexOf(ticks, end);
  }
  if (end < 0) {
    missing.add(ticks);
    return null;
  }
  const inside = text.slice(at + ticks.length, end);
  return { nodes: [el("code", { text: inside.trim() ? inside.replace(/^ (.*) $/s, "$1") : inside })], end: end + ticks.length };
}

function marked(text, at, depth, missing) {
  for (const [mark, tag] of MARKS) {
    if (!text.startsWith(mark, at) || missing.has(mark)) continue;
    const start = at + mark.length;
    if (/\s/.test(text[start] ?? " ")) continue;
    if (mark[0] === "_" && /\w/.test(text[at - 1] ?? "")) continue;
    const end = closing(text, mark, start);
    if (end < 0) {
      missing.add(mark);
      continue;
    }
    return { nodes: [el(tag, {}, inline(text.slice(start, end), depth + 1))], end: end + mark.length };
  }
  return null;
}

function closing(text, mark, start) {
  for (let end = text.indexOf(mark, start + 1); end > 0; end = text.indexOf(mark, end + 1)) {
    const doubled = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
    const within = mark[0] === "_" && /\w/.test(text[end + mark.length] ?? "");
    if (!/\s/.test(text[end - 1]) && !doubled && !within) return end;
  }
  return -1;
}

/** [words](address). Addresses that could run something are left as text; pictures are links, since nothing is fetched from elsewhere. */
function link(text, at, depth, missing) {
  if (missing.has("](")) return null;
  const start = text[at] === "!" ? at + 2 : at + 1;
  const middle = text.indexOf("](", start);
  if (middle < 0) {
    missing.add("](");
    return null;
  }
  const end = text.indexOf(")", middle);
  const words = text.slice(start, middle);
  const address = text.slice(middle + 2, end).split(/\s/)[0];
  if (end < 0 || words.includes("\n\n") || words.includes("[") || !SAFE.test(address)) return null;
  return { nodes: [anchor(address, inline(words, depth + 1))], end: end + 1 };
}

function bare(text, at) {
  const found = /^https?:\/\/[^\s<>"'`()[\]]+/.exec(text.slice(at, at + 2000));
  if (!found) return null;
  const address = found[0].replace(/[.,;:!?]+$/, "");
  return { nodes: [anchor(address, [address])], end: at + address.length };
}

function anchor(address, words) {
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, words);
}
