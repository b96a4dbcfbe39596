// The page: what all views share, and which of them is shown.

import { Api } from "./api.js";
import { ChatView } from "./chat.js";
import { el } from "./dom.js";
import { icon } from "./icons.js";
import { RunsView } from "./runs.js";
import { Settings } from "./settings.js";
import { SettingsView } from "./settings_view.js";
import { Store } from "./store.js";
import { TextView } from "./text.js";
import { TokenPopover } from "./token_popover.js";
import { Words } from "./words.js";

const THEMES = { auto: "half", light: "sun", dark: "moon" };

class App {
  constructor(store, talks) {
    this.store = store;
    this.settings = new Settings();
    this.words = new Words(this.settings);
    this.api = new Api(this.settings);
    this.popover = new TokenPopover(this.words);
    this.models = []; // {id, loaded}, and of those that are loaded context_length, max_output_tokens, chat and chat_sampling
    this.views = { chat: new ChatView(this, talks), text: new TextView(this), runs: new RunsView(this) };
    this.sheet = new SettingsView(this);
  }

  start() {
    document.querySelector("#open-settings").append(icon("settings"));
    document.querySelector("#open-settings").addEventListener("click", () => this.sheet.open());
    document
      .querySelector("#language")
      .addEventListener("click", () => this.settings.set("language", this.words.language === "zh" ? "en" : "zh"));
    document.querySelector("#theme").addEventListener("click", () => this.nextTheme());
    this.settings.addEventListener("change", ({ detail }) => this.changed(detail));
    addEventListener("hashchange", () => this.show());
    addEventListener("keydown", (event) => event.key === "Escape" && this.escape(event));
    this.dress();
    this.drawTheme();
    this.show();
    this.askModels();
    if (!this.store.kept) this.announce("not_kept");
  }

  get current() {
    return this.views[location.hash.slice(1).split("/")[0]] ?? this.views.chat;
  }

  show() {
    const name = Object.keys(this.views).find((key) => this.views[key] === this.current);
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const main = document.querySelector("#main");
    if (main.firstChild !== this.current.element) {
      Object.values(this.views).forEach((view) => view !== this.current && view.leave());
      main.replaceChildren(this.current.element);
      document.title = name === "chat" ? "newleaf" : `${this.words.say(name)} – newleaf`;
      this.current.shown();
    }
  }

  /** Esc stops what is being written, unless there is something that it closes. */
  escape(event) {
    if (!event.defaultPrevented && !document.querySelector("dialog[open], :popover-open, .talks.shown")) this.current.stop?.();
  }

  changed(name) {
    if (name === "language") this.dress();
    if (name === "theme") this.drawTheme();
    if (name === "key") this.askModels();
    if (name === "enter_sends") this.views.chat.draw();
    if (this.sheet.element.open && name === "language") this.sheet.draw();
  }

  /** Everything in the language of now. */
  dress() {
    this.words.dress(document);
    const language = document.querySelector("#language");
    language.textContent = this.words.say("other_language");
    language.lang = this.words.language === "zh" ? "en" : "zh-CN";
    document.querySelector("#open-settings").title = this.words.say("settings");
    this.drawTheme();
    for (const view of Object.values(this.views)) view.draw();
    if (document.querySelector("#main").firstChild === this.current.element) this.current.shown(false);
  }

  nextTheme() {
    const names = Object.keys(THEMES);
    this.settings.set("theme", names[(names.indexOf(this.settings.get("theme")) + 1) % names.length]);
  }

  drawTheme() {
    const theme = this.settings.get("theme");
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const label = this.words.say(`theme_${theme}`);
    const control = document.querySelector("#theme");
    control.replaceChildren(icon(THEMES[theme]));
    control.setAttribute("aria-label", label);
    control.title = label;
  }

  async askModels() {
    try {
      this.models = await this.api.models();
    } catch {
      this.models = []; // the first answer that is asked for says why
    }
    if (this.sheet.element.open) this.sheet.draw();
    this.views.chat.refresh();
    this.views.text.drawModels();
  }

  /** What is known of a model: of the one with this name, or of the server's first. */
  modelOf(name) {
    return this.models.find(({ id }) => id === name) ?? this.models[0];
  }

  /** The same, once the server has the model in memory and can say what it is. */
  async ready(name) {
    if (!this.models.length) await this.askModels();
    const model = this.modelOf(name);
    if (!model || model.loaded !== false) return model;
    try {
      await this.api.post("tokenize", { model: model.id, prompt: "" });
      await this.askModels();
    } catch {
      // The request that follows says why.
    }
    return this.modelOf(name);
  }

  /** Say something to those who listen to the page. */
  announce(name) {
    document.querySelector("#said").textContent = this.words.say(name);
  }

  async copy(text) {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyOldWay(text);
    this.announce("copied");
  }

  /** An error as a sentence. */
  saidOf({ kind, message }) {
    if (kind === "network") return this.words.say("error_network");
    if (kind === "key") return this.words.say("error_key");
    if (kind === "broken") return this.words.say("error_broken");
    const hint = /no chat template/.test(message) ? ` ${this.words.say("error_chatless")}` : "";
    return this.words.say("error", { reason: message }) + hint;
  }
}

/** Over plain HTTP from another machine, browsers have no clipboard for pages. */
function copyOldWay(text) {
  const field = el("textarea", { class: "unseen", is: { value: text } });
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus();
}

const store = await Store.open();
new App(store, await store.all()).start();
