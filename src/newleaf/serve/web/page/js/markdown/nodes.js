// Tokens to nodes of the document. A model's text becomes text nodes and elements that are named here, and nothing else.

import { el } from "../dom.js";
import { codeBlock } from "./code.js";
import { mathNode } from "./math.js";
import { infoOf } from "./parser.js";

const SAFE = /^(https?:|mailto:)/i;
const HEADING_BELOW = 2; // a message's headings lie below the page's own
// Markup that models write within a line and that can do nothing: the element is built anew, without attributes.
const PLAIN_MARKUP = new Set(["b", "i", "em", "strong", "u", "s", "del", "ins", "mark", "small", "sub", "sup", "kbd", "q", "cite"]);
const RTL = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

/** `tools`: say(name), the language's words; codeTools(read), the buttons of a code block whose text `read()` is. */
export function nodesOf(tokens, tools) {
  const top = document.createDocumentFragment();
  const open = [top];
  for (const token of tokens) {
    const place = open.at(-1);
    if (token.hidden) continue; // a paragraph of a tight list
    if (token.nesting === 1) {
      const [node, inside] = opened(token);
      place.append(node);
      open.push(inside);
    } else if (token.nesting === -1) turned(open.pop());
    else place.append(...leaf(token, tools));
  }
  return top;
}

/** The element of a token that opens one, and where its content goes. */
function opened({ tag, type, attrs }) {
  if (type === "heading_open") return twice(el(`h${Math.min(6, Number(tag[1]) + HEADING_BELOW)}`, { "data-level": tag[1], dir: "auto" }));
  if (type === "table_open") {
    const table = el("table");
    return [el("div", { class: "table", tabindex: 0 }, table), table];
  }
  if (tag === "th" || tag === "td") {
    const align = /left|right|center/.exec(valueOf(attrs, "style") ?? "")?.[0];
    return twice(el(tag, { dir: "auto", "data-align": align, scope: tag === "th" ? "col" : null }));
  }
  if (tag === "ol") return twice(el("ol", { start: valueOf(attrs, "start") }));
  if (tag === "p") return twice(el("p", { dir: "auto" }));
  return twice(el(tag));
}

const twice = (node) => [node, node];
const valueOf = (attributes, name) => attributes?.find(([key]) => key === name)?.[1];

function code(text, language, tools) {
  return language === "math" && text.trim() ? mathNode(text, true) : codeBlock(text, language, tools);
}

/** Lists and quotations of right-to-left text have their marks on the right. */
function turned(node) {
  if (!["UL", "OL", "BLOCKQUOTE", "TABLE"].includes(node.tagName)) return;
  const letter = /\p{L}/u.exec(node.textContent)?.[0];
  if (letter && RTL.test(letter)) node.dir = "rtl";
}

function leaf(token, tools) {
  const { type, content } = token;
  if (type === "inline") return inlineNodes(token.children, tools);
  if (type === "fence" || type === "code_block") return [code(content.replace(/\n$/, ""), infoOf(token).split(/\s+/)[0], tools)];
  if (type === "math_block") return [mathNode(content, true)];
  if (type === "hr") return [el("hr")];
  if (type === "html_block") return [el("pre", { class: "markup", "data-markup": "", tabindex: 0, text: content })];
  return [];
}

function inlineNodes(tokens, tools) {
  const top = document.createDocumentFragment();
  const open = [top];
  const pairs = pairsOf(tokens);
  tokens.forEach((token, at) => {
    const place = open.at(-1);
    const pair = pairs.get(at);
    if (pair === "close" || token.nesting === -1) open.pop();
    else if (pair || token.nesting === 1) {
      const node = pair ? el(pair) : inlineOpened(token);
      place.append(node);
      open.push(node);
    } else place.append(...inlineLeaf(token, tools));
  });
  return [...top.childNodes];
}

/** Which of the markup tokens open and close an element of PLAIN_MARKUP, properly nested: their places → its name, or "close". */
function pairsOf(tokens) {
  const found = new Map();
  const open = []; // {at, name} of markup, {} of Markdown's own
  tokens.forEach((token, at) => {
    if (token.nesting === 1) open.push({});
    else if (token.nesting === -1) while (open.pop()?.name !== undefined);
    else if (token.type === "html_inline") {
      const [, slash, name] = /^<(\/?)([a-z]+)>$/i.exec(token.content) ?? [];
      const lower = name?.toLowerCase();
      if (!PLAIN_MARKUP.has(lower)) return;
      if (!slash) open.push({ at, name: lower });
      else if (open.at(-1)?.name === lower) {
        found.set(open.pop().at, lower);
        found.set(at, "close");
      }
    }
  });
  return found;
}

function inlineOpened({ type, tag, attrs }) {
  if (type !== "link_open") return el(tag === "s" ? "del" : tag);
  return link(valueOf(attrs, "href"), valueOf(attrs, "title"));
}

/** A link that tells nothing to where it leads. Addresses without a scheme mean nothing here, and are shown when pointed at. */
function link(href, title, props = {}, ...children) {
  const leads = SAFE.test(href) ? { href, target: "_blank", rel: "noopener noreferrer nofollow" } : { "data-href": href };
  return el("a", { ...leads, title: title ?? href, "data-title": title, ...props }, ...children);
}

function inlineLeaf(token, tools) {
  const { type, content, attrs, meta } = token;
  if (type === "text" || type === "text_special") return [content];
  if (type === "softbreak") return ["\n"]; // shown as a line's end
  if (type === "hardbreak") return [el("br")];
  if (type === "code_inline") return [el("code", { dir: "ltr", text: content })];
  if (type === "math") return [mathNode(content, meta.display)];
  if (type === "image") return [picture(token, valueOf(attrs, "src"), valueOf(attrs, "title"))];
  if (type === "task") {
    const label = tools.say(meta.done ? "task_done" : "task_open");
    return [el("input", { type: "checkbox", disabled: true, "aria-label": label, is: { checked: meta.done } })];
  }
  if (type === "html_inline") return [/^<br\s*\/?>$/i.test(content) ? el("br") : el("span", { "data-markup": "", text: content })];
  return [content];
}

/** Pictures are links: nothing is fetched from elsewhere unasked. */
function picture({ children }, src, title) {
  const alt = textOf(children);
  return link(src, title, { class: "picture", "data-alt": alt }, alt || src);
}

function textOf(tokens) {
  return tokens
    .map(({ type, content, children }) => (type === "softbreak" ? "\n" : children?.length ? textOf(children) : type === "html_inline" ? "" : content))
    .join("");
}
