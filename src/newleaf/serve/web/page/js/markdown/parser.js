// Markdown to tokens: CommonMark, GitHub's tables, struck-out text, task lists and bare links, and LaTeX between its delimiters.

import MarkdownIt from "../../vendor/markdown-it.js";
import { mathRules } from "./math_rules.js";

const LONGEST_ENTITY = 40; // characters; the longest of HTML's has 33

const parser = new MarkdownIt({ html: true, linkify: true });
// A bare "main.py" is no address in Paraguay: what has no scheme is a link only behind "www.", as on GitHub.
parser.linkify.set({ fuzzyLink: false });
parser.linkify.add("www.", {
  validate: (text, at) => withoutEnd(/^[\w-]+(\.[\w-]+)+[^\s<]*/.exec(text.slice(at, at + 2000))?.[0] ?? "").length,
  normalize: (match) => {
    match.url = `http://${match.url}`;
  },
});
parser.use(mathRules);
parser.core.ruler.push("tasks", tasks);

/** An address without what ends the sentence it stands in: punctuation, an entity, a bracket that was opened before it. */
function withoutEnd(address) {
  let open = address.split("(").length - address.split(")").length; // brackets that are opened in it and not closed
  let end = address.length;
  for (;;) {
    const before = end;
    while (end > 0 && "?!.,:;*_~'\"".includes(address[end - 1]) && !entityBefore(address, end)) end--;
    end -= entityBefore(address, end);
    if (address[end - 1] === ")" && open < 0) {
      end--;
      open++;
    }
    if (end === before) return address.slice(0, end);
  }
}

/** How many characters an entity such as &amp; has that ends here; 0 where there is none. */
function entityBefore(address, end) {
  return address[end - 1] === ";" ? (/&[a-z0-9]+;$/i.exec(address.slice(Math.max(0, end - LONGEST_ENTITY), end))?.[0].length ?? 0) : 0;
}

/** What a code block's first line says behind the fence, with its escapes resolved. */
export const infoOf = (token) => parser.utils.unescapeAll(token.info ?? "").trim();

/** markdown-it's tokens. `environment` keeps link definitions from one part of a text to the next. */
export function parse(text, environment) {
  return parser.parse(text, environment);
}

/** `[ ]` and `[x]` at the beginning of a list's item become tokens of their own. */
function tasks({ tokens }) {
  for (let at = 2; at < tokens.length; at++) {
    const isFirst = tokens[at - 1].type === "paragraph_open" && tokens[at - 2].type === "list_item_open";
    const text = tokens[at].type === "inline" && isFirst ? tokens[at].children[0] : null;
    const found = text?.type === "text" && /^\[([ xX])\](?=\s)/.exec(text.content);
    if (!found) continue;
    const task = Object.assign(Object.create(Object.getPrototypeOf(text)), text, { type: "task", meta: { done: found[1] !== " " } });
    text.content = text.content.slice(3);
    tokens[at].children.unshift(task);
  }
}
