// The settings, in a sheet at the side.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";
import { fits, RANGES } from "./settings.js";

export class SettingsView {
  constructor(app) {
    this.app = app;
    this.element = el("dialog", { class: "sheet", on: { click: (event) => event.target === this.element && this.element.close() } });
    document.body.append(this.element);
  }

  open() {
    this.draw();
    this.element.showModal();
  }

  draw() {
    const { words } = this.app;
    const say = (name) => words.say(name);
    this.element.setAttribute("aria-label", say("settings"));
    this.element.replaceChildren(
      el(
        "form",
        { class: "sheet-in", on: { submit: (event) => event.preventDefault() } },
        el(
          "div",
          { class: "row between" },
          el("h2", { text: say("settings") }),
          button(say("close"), () => this.element.close(), { icon: icon("close") }),
        ),
        el("h3", { text: say("answers") }),
        el("p", { class: "hint", text: say("sampling_help") }),
        el(
          "div",
          { class: "pair" },
          ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"].map((name) => this.figure(name)),
        ),
        this.tick("logprobs", say("ask_logprobs")),
        this.tick("enter_sends", say("enter_sends")),
        el("h3", { text: say("look") }),
        el(
          "div",
          { class: "pair" },
          this.choice("language", say("language"), [
            ["", say("as_browser")],
            ["en", "English"],
            ["zh", "中文"],
          ]),
          this.choice("theme", say("theme"), [
            ["auto", say("as_system")],
            ["light", say("light")],
            ["dark", say("dark")],
          ]),
        ),
        el("h3", { text: say("access") }),
        this.secret("key", say("api_key"), say("api_key_help")),
        this.tick("keep_key", say("keep_key")),
      ),
    );
  }

  field(name, label, control, help = null) {
    control.id = `set-${name}`;
    return el(
      "div",
      { class: "field" },
      el("label", { for: control.id, text: label }),
      control,
      help ? el("p", { class: "hint", text: help }) : null,
    );
  }

  choice(name, label, options) {
    const chosen = this.app.settings.get(name);
    const select = el(
      "select",
      { on: { change: () => this.app.settings.set(name, select.value) } },
      options.map(([value, text]) => el("option", { value, text, selected: value === chosen })),
    );
    return this.field(name, label, select);
  }

  /** A number; empty is the model's. What is out of range is marked and not sent. */
  figure(name) {
    const { words, settings } = this.app;
    const { min, max, whole } = RANGES[name];
    const problem = el("p", { class: "wrong", id: `wrong-${name}`, role: "status" });
    const input = el("input", {
      type: "text",
      inputmode: whole ? "numeric" : "decimal",
      autocomplete: "off",
      placeholder: this.standing(name),
      "aria-describedby": problem.id,
      is: { value: settings.get(name) ?? "" },
    });
    const check = () => {
      const text = input.value.trim();
      const right = text === "" || fits(name, Number(text));
      input.setAttribute("aria-invalid", String(!right));
      problem.textContent = right ? "" : words.say(whole ? "out_of_range_whole" : "out_of_range", { min: words.plain(min), max: words.plain(max) });
      settings.set(name, right && text !== "" ? Number(text) : null);
    };
    input.addEventListener("input", check);
    const field = this.field(name, words.say(name), input);
    field.append(problem);
    return field;
  }

  /** What holds where nothing is set. */
  standing(name) {
    const { words, views } = this.app;
    const model = this.app.modelOf(views.chat.talk.model);
    const value = model?.chat_sampling?.[name];
    if (value !== undefined) return words.plain(value);
    return words.say(name === "seed" ? "any_seed" : "as_model");
  }

  secret(name, label, help) {
    const input = el("input", {
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      is: { value: this.app.settings.get(name) },
      on: { change: () => this.app.settings.set(name, input.value.trim()) },
    });
    return this.field(name, label, input, help);
  }

  tick(name, label) {
    const input = el("input", {
      type: "checkbox",
      id: `set-${name}`,
      is: { checked: this.app.settings.get(name) },
      on: { change: () => this.app.settings.set(name, input.checked) },
    });
    return el("label", { class: "tick", for: input.id }, input, el("span", { text: label }));
  }
}
