// Markdown to nodes, whole or as it grows. A model's text never reaches a parser of markup.

import { paintCode } from "./markdown/code.js";
import { append, morph } from "./markdown/morph.js";
import { nodesOf } from "./markdown/nodes.js";
import { parse } from "./markdown/parser.js";
import { presentable } from "./markdown/unfinished.js";

const NO_TOOLS = { say: (name) => name, codeTools: () => [] };

/** `tools`: say(name), the language's words; codeTools(read), the buttons of a code block whose text `read()` is. */
export function markdown(text, tools = NO_TOOLS) {
  const nodes = nodesOf(parse(oneLineEnd(text), {}), tools);
  paintCode(nodes, true);
  return nodes;
}

/** Markdown in `element` that is written while it is shown. What stands before the last block is not looked at again, so the work grows
 * with the text and nothing that has been drawn is drawn anew. */
export class GrowingMarkdown {
  constructor(element, tools = NO_TOOLS) {
    Object.assign(this, { element, tools });
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.settled = ""; // the text whose nodes stay
    this.tail = []; // the nodes of the rest
    this.environment = {};
  }

  /** Show this text; `writing` while more is to come. */
  update(text, writing) {
    const all = oneLineEnd(text);
    if (!all.startsWith(this.settled)) this.clear();
    let rest = all.slice(this.settled.length);
    let tokens = this.tokensOf(writing ? presentable(rest) : rest);
    if (!writing && this.settled && this.hasDefinitions) {
      this.unsettle(); // a definition that came late gives links to what stands before it
      rest = all;
      tokens = this.tokensOf(rest);
    }
    const blocks = topLevel(tokens);
    const nodes = blocks.map(({ tokens }) => [...nodesOf(tokens, this.tools).childNodes]);
    this.replaceTail(nodes.flat(), writing);
    if (writing && blocks.length > 1) this.settle(rest.slice(0, lineStart(rest, blocks.at(-1).line)), nodes.at(-1).length);
  }

  /** No longer look at a part of the text; `left` nodes are of what comes behind it. */
  settle(part, left) {
    parse(part, this.environment); // for its link definitions
    this.settled += part;
    this.tail = this.tail.slice(this.tail.length - left);
  }

  unsettle() {
    this.tail = [...this.element.childNodes];
    this.settled = "";
    this.environment = {};
  }

  /** Link definitions that are still being written are forgotten with the next piece. */
  tokensOf(text) {
    this.found = { references: { ...this.environment.references } };
    return parse(text, this.found);
  }

  get hasDefinitions() {
    return Object.keys(this.found.references).length > 0;
  }

  replaceTail(fresh, writing) {
    const shown = fresh.map((node, place) => {
      const old = this.tail[place];
      if (old) return morph(old, node, !writing);
      append(this.element, node, !writing);
      return node;
    });
    for (const old of this.tail.slice(fresh.length)) old.remove();
    this.tail = shown;
  }
}

/** Tokens by the blocks they make up, and the line each begins at. */
function topLevel(tokens) {
  const blocks = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push({ tokens: [], line: token.map?.[0] ?? 0 });
    blocks.at(-1).tokens.push(token);
    depth += token.nesting;
  }
  return blocks;
}

function lineStart(text, line) {
  let at = 0;
  for (let passed = 0; passed < line; passed++) at = text.indexOf("\n", at) + 1;
  return at;
}

const oneLineEnd = (text) => (text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text);
