// Where a message is written: a field that grows, and one button that sends or stops.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";

export class Composer {
  /** `acts`: send(text), stop(), editLast(). */
  constructor(words, acts) {
    this.acts = acts;
    this.words = words;
    this.writing = false;
    this.field = el("textarea", {
      id: "message",
      rows: 1,
      "aria-label": words.say("message"),
      placeholder: words.say("message_hint"),
      enterkeyhint: "send",
      on: { input: () => this.changed(), keydown: (event) => this.keys(event) },
    });
    this.send = button(words.say("send"), () => this.submit(), { icon: icon("send"), kind: "primary", id: "send" });
    this.element = el(
      "div",
      { class: "composer" },
      el("div", { class: "composer-box" }, this.field, this.send),
      el("p", { class: "hint keys", text: words.say("keys") }),
    );
    this.changed();
  }

  get text() {
    return this.field.value;
  }

  set text(value) {
    this.field.value = value;
    this.changed();
  }

  setWriting(writing) {
    if (writing === this.writing) return;
    this.writing = writing;
    const label = this.words.say(writing ? "stop" : "send");
    this.send.replaceChildren(icon(writing ? "stop" : "send"));
    this.send.setAttribute("aria-label", label);
    this.send.title = label;
    this.changed();
  }

  submit() {
    if (this.writing) return this.acts.stop();
    const text = this.field.value;
    if (!text.trim()) return this.field.focus();
    this.text = "";
    return this.acts.send(text);
  }

  keys(event) {
    // While a Chinese word is being put together, Enter belongs to the input method.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.writing) this.submit();
    } else if (event.key === "ArrowUp" && this.field.value === "") {
      event.preventDefault();
      this.acts.editLast();
    }
  }

  changed() {
    this.send.toggleAttribute("data-empty", !this.writing && !this.field.value.trim());
    this.field.style.height = "auto";
    if (this.field.scrollHeight) this.field.style.height = `${Math.min(this.field.scrollHeight, innerHeight * 0.4)}px`;
  }
}
