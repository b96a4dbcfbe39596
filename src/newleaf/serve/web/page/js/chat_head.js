// What stands above a chat: its title, the model that answers, what that model is told before everything else, and ways to take it away.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";

export class ChatHead {
  /** `acts`: show(), begin(), exported(kind), changed(values). */
  constructor(app, acts) {
    Object.assign(this, { app, acts, talk: null });
    const say = (name) => app.words.say(name);
    this.title = el("h2", {});
    this.renaming = button(say("rename"), () => this.rename(), { icon: icon("edit"), id: "rename" });
    this.model = el("select", { id: "chat-model", "aria-label": say("model"), on: { change: () => acts.changed({ model: this.model.value }) } });
    this.toggle = button(say("system_prompt"), () => this.show(this.panel.hidden), {
      kind: "small",
      id: "system-toggle",
      "aria-expanded": "false",
      "aria-controls": "system-panel",
    });
    this.system = el("textarea", {
      id: "chat-system",
      rows: 4,
      placeholder: say("system_hint"),
      on: { input: () => this.systemTyped(), keydown: (event) => this.keys(event) },
    });
    this.panel = el(
      "div",
      { class: "system-panel", id: "system-panel", hidden: true },
      el("label", { for: "chat-system", text: say("system_label") }),
      this.system,
    );
    this.element = el(
      "div",
      { class: "chat-head" },
      el(
        "div",
        { class: "bar-top" },
        button(say("show_talks"), () => acts.show(), { icon: icon("list"), kind: "narrow-only", id: "show-talks" }),
        el("div", { class: "titled" }, this.title, this.renaming),
        el("div", { class: "chosen" }, this.model, this.toggle),
        el("div", { class: "exports" }, this.exporter("md", say("export_markdown"), "Markdown", "MD"), this.exporter("json", say("export_json"), "JSON", "JSON")),
        button(say("new_talk"), () => acts.begin(), { icon: icon("plus"), kind: "narrow-only" }),
      ),
      this.panel,
    );
  }

  draw(talk) {
    if (talk !== this.talk) this.show(false);
    this.talk = talk;
    if (!this.title.isContentEditable) this.title.textContent = talk.title || this.app.words.say("untitled");
    this.drawModels(talk);
    if (document.activeElement !== this.system) this.system.value = talk.system;
    this.toggle.classList.toggle("set", Boolean(talk.system));
  }

  drawModels(talk) {
    const { models, words } = this.app;
    const names = models.map(({ id }) => id);
    const missing = talk.model && names.length && !names.includes(talk.model) ? [[talk.model, words.say("model_missing", { model: talk.model })]] : [];
    const options = [...names.map((name) => [name, name]), ...missing];
    const now = JSON.stringify([options, talk.model]);
    this.model.hidden = !options.length;
    if (now === this.drawn) return;
    this.drawn = now;
    this.model.replaceChildren(...options.map(([value, text]) => el("option", { value, text, disabled: text !== value })));
    this.model.value = talk.model || names[0] || "";
  }

  show(on) {
    this.panel.hidden = !on;
    this.toggle.setAttribute("aria-expanded", String(on));
    if (on) this.system.focus();
  }

  systemTyped() {
    this.toggle.classList.toggle("set", Boolean(this.system.value));
    this.acts.changed({ system: this.system.value });
  }

  keys(event) {
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    this.show(false);
    this.toggle.focus();
  }

  /** The title becomes a field. */
  rename() {
    const field = el("input", { class: "rename", "aria-label": this.app.words.say("rename"), maxlength: 200, is: { value: this.talk.title } });
    let over = false; // taking the field away takes its focus, which would end it again
    const done = (keep) => {
      if (over) return;
      over = true;
      field.replaceWith(this.title);
      this.renaming.hidden = false;
      if (keep && field.value.trim() && field.value.trim() !== this.talk.title) this.acts.changed({ title: field.value.trim() });
    };
    field.addEventListener("blur", () => done(true));
    field.addEventListener("keydown", (event) => {
      if ((event.key !== "Enter" && event.key !== "Escape") || event.isComposing) return;
      event.preventDefault();
      event.stopPropagation();
      done(event.key === "Enter");
      this.renaming.focus();
    });
    this.title.replaceWith(field);
    this.renaming.hidden = true;
    field.focus();
    field.select();
  }

  exporter(kind, label, long, short) {
    const name = [el("span", { class: "wide-only", text: long }), el("span", { class: "narrow-only", text: short })];
    return el(
      "button",
      { type: "button", class: "small", id: `export-${kind}`, "aria-label": label, title: label, on: { click: () => this.acts.exported(kind) } },
      name,
      " ↓",
    );
  }
}
