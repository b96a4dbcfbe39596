// What a token was chosen from: its probability, the alternatives, and a way to go on from another one.

import { el } from "./dom.js";
import { alone, changed, isControl, sameToken } from "./tokens.js";
import { spoken } from "./token_view.js";

const GAP = 8;

export class TokenPopover {
  constructor(words) {
    this.words = words;
    this.element = el("div", {
      class: "popover",
      popover: "auto",
      role: "dialog",
      on: { keydown: (event) => this.keys(event), toggle: (event) => this.toggled(event) },
    });
    document.body.append(this.element);
    this.anchor = null;
  }

  /** Show the alternatives of `tokens[place]` beside `anchor`. `go(other, text)` is called with the one that is chosen and the text up to
   * it; without `go` they are only shown. */
  open(tokens, place, anchor, go) {
    this.anchor = anchor;
    const token = tokens[place];
    const { words } = this;
    const others = token.top.some((other) => sameToken(other, token)) ? token.top : [...token.top, token];
    const rest = 1 - others.reduce((sum, other) => sum + Math.exp(other.logprob ?? -Infinity), 0);
    const known = token.logprob !== null && token.logprob !== undefined;
    this.element.setAttribute("aria-label", words.say("alternatives"));
    this.element.replaceChildren(
      el(
        "div",
        { class: "popover-head" },
        el("span", { class: "token-name", text: alone(token) }),
        known ? el("span", { class: "figure", text: words.percent(Math.exp(token.logprob)) }) : null,
      ),
      known
        ? el(
            "ul",
            { class: "alternatives" },
            others.map((other) => el("li", {}, this.alternative(tokens, place, other, go))),
          )
        : "",
      known && rest > 0.0005
        ? el("p", { class: "rest" }, el("span", { text: words.say("others") }), el("span", { class: "figure", text: words.percent(rest) }))
        : "",
    );
    if (this.element.querySelector("button:not(:disabled)"))
      this.element.append(el("p", { class: "hint", text: words.say("popover_help") }));
    this.element.showPopover();
    this.place(anchor);
    (this.element.querySelector("button:not(:disabled)") ?? this.element).focus({ preventScroll: true });
  }

  alternative(tokens, place, other, go) {
    const { words } = this;
    const probability = Math.exp(other.logprob);
    const percent = words.percent(probability);
    const own = sameToken(other, tokens[place]);
    const text = changed(tokens, place, other);
    const says = go && text !== null ? "continue_from" : "not_continuable";
    const bar = el("span", { class: "bar" });
    bar.style.setProperty("--share", `${(100 * probability).toFixed(2)}%`);
    return el(
      "button",
      {
        type: "button",
        class: own ? "alternative own" : "alternative",
        disabled: !go || text === null,
        "aria-label": words.say(says, { token: spoken(other, words), percent }),
        on: { click: () => this.choose(() => go(other, text)) },
      },
      bar,
      el("span", { class: "token-name", text: completed(other, text) }),
      other.bytes && text !== null ? el("span", { class: "mark", text: alone(other) }) : null,
      isControl(other) ? el("span", { class: "mark", text: words.say("end_of_text") }) : null,
      own ? el("span", { class: "mark", text: words.say("chosen") }) : null,
      el("span", { class: "figure", text: percent }),
    );
  }

  choose(go) {
    this.anchor = null; // its token will be gone
    this.element.hidePopover();
    go();
  }

  keys(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...this.element.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(document.activeElement);
    buttons[(at + step + buttons.length) % buttons.length]?.focus();
    event.preventDefault();
  }

  /** Focus goes back to the token when it is closed by Esc. */
  toggled(event) {
    if (event.newState === "closed" && (document.activeElement === document.body || this.element.contains(document.activeElement)))
      this.anchor?.focus();
  }

  place(anchor) {
    const at = anchor.getBoundingClientRect();
    const own = this.element.getBoundingClientRect();
    const left = Math.max(GAP, Math.min(at.left, innerWidth - own.width - GAP));
    const below = at.bottom + GAP + own.height <= innerHeight;
    const top = below ? at.bottom + GAP : Math.max(GAP, at.top - GAP - own.height);
    this.element.style.left = `${left}px`;
    this.element.style.top = `${top}px`;
  }
}

/** A token that ends a character is shown as that character. */
function completed(token, text) {
  return token.bytes && text !== null ? [...text].at(-1) : alone(token);
}
