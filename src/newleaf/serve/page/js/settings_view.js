// The settings, in a sheet at the side.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";

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
    const { words, models } = this.app;
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
        this.choice(
          "model",
          say("model"),
          models.map(({ id }) => [id, id]),
        ),
        this.words("system", say("system_prompt"), say("system_hint")),
        el(
          "div",
          { class: "pair" },
          this.figure("temperature", say("temperature"), { min: 0, max: 5, step: 0.1, hint: say("as_model") }),
          this.figure("top_p", say("top_p"), { min: 0.01, max: 1, step: 0.01, hint: say("as_model") }),
          this.figure("max_tokens", say("max_tokens"), { min: 1, max: 1e6, step: 1, hint: say("as_model") }),
          this.figure("seed", say("seed"), { min: 0, max: 2 ** 31 - 1, step: 1, hint: say("any_seed") }),
        ),
        this.tick("logprobs", say("ask_logprobs")),
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
    if (name === "model" && !options.some(([value]) => value === chosen)) select.selectedIndex = options.length ? 0 : -1;
    return this.field(name, label, select);
  }

  figure(name, label, { min, max, step, hint }) {
    const whole = step === 1;
    const input = el("input", {
      type: "number",
      inputmode: whole ? "numeric" : "decimal",
      min,
      max,
      step: whole ? 1 : "any",
      placeholder: hint,
      is: { value: this.app.settings.get(name) ?? "" },
    });
    input.addEventListener("input", () => {
      const value = input.value === "" ? null : Number(input.value);
      if (input.validity.valid) this.app.settings.set(name, value);
    });
    return this.field(name, label, input);
  }

  words(name, label, hint) {
    const area = el("textarea", {
      rows: 4,
      placeholder: hint,
      is: { value: this.app.settings.get(name) },
      on: { input: () => this.app.settings.set(name, area.value) },
    });
    return this.field(name, label, area);
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
