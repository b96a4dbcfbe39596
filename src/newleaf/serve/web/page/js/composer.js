// Where a message is written: a field that grows, and one button that sends or stops.

import { ContextMeter } from "./context_meter.js";
import { button, el } from "./dom.js";
import { icon } from "./icons.js";

export class Composer {
  /** `acts`: send(text), stop(), editLast(). */
  constructor(app, acts) {
    const { words } = app;
    Object.assign(this, { app, acts, words });
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
    this.meter = new ContextMeter(words);
    this.notice = el("div", { class: "notice", role: "status" });
    this.element = el(
      "div",
      { class: "composer" },
      this.notice,
      el("div", { class: "composer-box" }, this.field, this.send),
      el("div", { class: "below" }, el("p", { class: "hint keys", text: words.say(app.settings.get("enter_sends") ? "keys" : "keys_ctrl") }), this.meter.element),
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

  /** Say something above the field (nodes), and send nothing while `blocked`. */
  tell(nodes, blocked) {
    this.blocked = blocked;
    this.notice.replaceChildren(...nodes);
    this.changed();
  }

  submit() {
    if (this.writing) return this.acts.stop();
    if (this.blocked) return this.notice.querySelector("button")?.focus();
    const text = this.field.value;
    if (!text.trim()) return this.field.focus();
    this.text = "";
    return this.acts.send(text);
  }

  keys(event) {
    if (sends(event, this.app.settings)) {
      event.preventDefault();
      if (!this.writing) this.submit();
    } else if (event.key === "ArrowUp" && this.field.value === "") {
      event.preventDefault();
      this.acts.editLast();
    }
  }

  changed() {
    this.send.toggleAttribute("data-empty", !this.writing && (this.blocked || !this.field.value.trim()));
    this.field.style.height = "auto";
    if (this.field.scrollHeight) this.field.style.height = `${Math.min(this.field.scrollHeight, innerHeight * 0.4)}px`;
  }
}

/** Whether a key press sends: Enter, or Ctrl+Enter (⌘ on a Mac) where Enter begins a line. While a Chinese word is being put together,
 * Enter belongs to the input method. */
export function sends(event, settings) {
  if (event.key !== "Enter" || event.isComposing) return false;
  return event.ctrlKey || event.metaKey || (!event.shiftKey && settings.get("enter_sends"));
}
