// How much of the model's context a chat takes.

import { el } from "./dom.js";
import { path } from "./tree.js";

const NEARLY = 0.85; // of the context: said in warm colours

export class ContextMeter {
  constructor(words) {
    this.words = words;
    this.bar = el("span", { class: "context-bar", "aria-hidden": "true" }, el("i"));
    this.said = el("span", { class: "figure" });
    this.element = el("p", { class: "hint context", id: "context", hidden: true }, this.bar, this.said);
  }

  /** `used` tokens of `context`; null where they are not known. */
  draw(used, context) {
    this.element.hidden = !used || !context;
    if (this.element.hidden) return;
    const share = Math.min(1, used / context);
    this.bar.firstChild.style.inlineSize = `${(100 * share).toFixed(1)}%`;
    this.element.classList.toggle("nearly", share > NEARLY);
    this.said.textContent = this.words.say("context_used", { used: this.words.count(used), all: this.words.count(context) });
    this.element.title = this.words.say(share > NEARLY ? "context_nearly" : "context_help");
  }
}

/** Tokens that the path of a chat which is shown takes: as many as its last answer read and wrote. */
export function used(talk) {
  const last = path(talk).findLast((node) => node.usage?.prompt);
  return last ? last.usage.prompt + last.usage.tokens : 0;
}
