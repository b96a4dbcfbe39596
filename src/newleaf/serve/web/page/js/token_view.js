// A text as its tokens: each can be looked at, by pointer or by keys.

import { el } from "./dom.js";
import { InContext, shade, shown } from "./tokens.js";

/** `look(token, place, element)` is called for the one that is looked at. */
export class TokenView {
  constructor(words, look) {
    this.words = words;
    this.look = look;
    this.tokens = [];
    this.element = el("div", {
      class: "tokens",
      role: "group",
      "aria-label": words.say("token_list"),
      on: { keydown: (event) => this.keys(event), click: (event) => this.click(event) },
    });
  }

  /** Show these tokens. Those that are there already stay, so a text that grows is not built anew. */
  update(tokens) {
    const same = tokens.length >= this.tokens.length && this.tokens.every((token, place) => token === tokens[place]);
    if (!same) {
      this.element.replaceChildren();
      this.tokens = [];
    }
    if (!this.tokens.length) this.context = new InContext();
    const fresh = document.createDocumentFragment();
    for (let place = this.tokens.length; place < tokens.length; place++) fresh.append(...this.pieces(tokens[place], place));
    this.element.append(fresh);
    this.tokens = [...tokens];
  }

  pieces(token, place) {
    const percent = token.logprob === null || token.logprob === undefined ? "" : this.words.percent(Math.exp(token.logprob));
    const label = percent ? this.words.say("token_label", { token: spoken(token, this.words), percent }) : spoken(token, this.words);
    const span = el(
      "span",
      {
        class: `token p${shade(token.logprob)}`,
        role: "button",
        tabindex: place === 0 ? 0 : -1,
        "aria-label": label,
        "aria-haspopup": "dialog",
        "data-place": place,
      },
      broken(this.context.show(token)),
    );
    return [span];
  }

  spans() {
    return this.element.querySelectorAll(".token");
  }

  click(event) {
    const span = event.target.closest(".token");
    if (span) this.open(span);
  }

  open(span) {
    this.focus(span);
    const place = Number(span.dataset.place);
    this.look(this.tokens[place], place, span);
  }

  keys(event) {
    const spans = [...this.spans()];
    const at = spans.indexOf(document.activeElement);
    if (at < 0) return;
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      Home: 0,
      End: spans.length - 1,
      ArrowDown: this.line(spans, at, 1),
      ArrowUp: this.line(spans, at, -1),
    }[event.key];
    if (to !== undefined) this.focus(spans[Math.max(0, Math.min(spans.length - 1, to))]);
    else if (event.key === "Enter" || event.key === " ") this.open(spans[at]);
    else return;
    event.preventDefault();
  }

  /** The token above or below this one. */
  line(spans, at, step) {
    const here = spans[at].getBoundingClientRect();
    const middle = here.left + here.width / 2;
    let best = at;
    let distance = Infinity;
    let row = null;
    for (let to = at + step; to >= 0 && to < spans.length; to += step) {
      const box = spans[to].getBoundingClientRect();
      if (Math.abs(box.top - here.top) < here.height / 2) continue;
      row ??= box.top;
      if (Math.abs(box.top - row) > here.height / 2) break;
      const off = Math.abs(box.left + box.width / 2 - middle);
      if (off < distance) [best, distance] = [to, off];
    }
    return best;
  }

  focus(span) {
    for (const other of this.element.querySelectorAll('.token[tabindex="0"]')) other.tabIndex = -1;
    span.tabIndex = 0;
    span.focus();
  }
}

/** A line's end is seen, and ends the line. */
function broken(text) {
  return text.split(/(?<=↵)/).flatMap((line) => (line.endsWith("↵") ? [line, el("br")] : [line]));
}

/** A token said aloud: spaces have no sound. */
export function spoken(token, words) {
  const text = shown(token);
  return text.trim() === "" ? words.say("token_space") : text;
}
