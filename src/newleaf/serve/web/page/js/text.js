// The second view: a text that a base model goes on with, or whose own likelihood is looked at.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";
import { TokenView } from "./token_view.js";
import { sizeOf } from "./tokens.js";
import { scoreRequest, takeText, textRequest } from "./writing.js";

export class TextView {
  constructor(app) {
    this.app = app;
    this.element = el("div", { class: "text view" });
    this.versions = []; // continuations of `prompt`: {content, tokens, end, usage, error}
    this.place = 0;
    this.prompt = null;
    this.score = null; // tokens of the text itself
    this.job = null;
  }

  draw() {
    const { words, settings } = this.app;
    this.field = el("textarea", {
      id: "prompt",
      rows: 7,
      "aria-label": words.say("text"),
      placeholder: words.say("text_hint"),
      is: { value: settings.get("text") },
      on: { input: () => settings.set("text", this.field.value), keydown: (event) => this.keys(event) },
    });
    this.model = el("select", { id: "text-model", "aria-label": words.say("model"), on: { change: () => this.modelChosen() } });
    this.note = el("p", { class: "hint", role: "status" });
    this.write = button(words.say("write_on"), () => (this.job ? this.stop() : this.begin()), { kind: "primary", id: "write-on" });
    this.ask = button(words.say("score_text"), () => this.look(), { kind: "plain", id: "score" });
    this.out = el("section", { class: "out", "aria-label": words.say("continuation") });
    this.element.replaceChildren(
      el(
        "div",
        { class: "page" },
        el("div", { class: "row between" }, el("h1", { text: words.say("text_title") }), this.model),
        el("p", { class: "lead", text: words.say("text_help") }),
        this.field,
        el("div", { class: "row" }, this.write, this.ask, el("p", { class: "hint keys", text: words.say("text_keys") })),
        this.note,
        this.out,
      ),
    );
    this.drawModels();
    this.refresh();
  }

  /** The model is the one that was chosen last, here or in a chat. */
  drawModels() {
    const { models, settings } = this.app;
    this.model.hidden = models.length < 2;
    this.model.replaceChildren(...models.map(({ id }) => el("option", { value: id, text: id })));
    this.model.value = this.app.modelOf(settings.get("model"))?.id ?? "";
  }

  modelChosen() {
    this.app.settings.set("model", this.model.value);
    this.app.ready(this.model.value);
  }

  /** A text that was begun elsewhere. */
  begun(text, model) {
    if (model) this.app.settings.set("model", model);
    if (text) this.setText(text);
    this.drawModels();
  }

  shown(focus = true) {
    if (focus && matchMedia("(pointer: fine)").matches) this.field.focus();
  }

  leave() {}

  stop() {
    this.job?.abort();
  }

  keys(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.job) {
      event.preventDefault();
      this.begin();
    }
  }

  /** Write on from the text; the same text again gives one more version. */
  begin(prompt = this.field.value, start = { content: "", tokens: [] }) {
    if (this.job) return;
    if (prompt !== this.prompt || this.score) this.versions = [];
    this.prompt = prompt;
    this.score = null;
    const node = { end: null, ...start };
    this.place = this.versions.push(node) - 1;
    const place = this.place;
    this.run(node, async (signal) => {
      const { api, settings, words } = this.app;
      const model = await this.app.ready(settings.get("model"));
      const whole = prompt + node.content;
      const { tokens } = await api.post("tokenize", { model: model?.id, prompt: whole }, signal);
      const { body, left } = textRequest(settings, model, whole, tokens, place);
      this.note.textContent = left ? words.say("text_cut", { left: words.count(left), context: words.count(model.context_length) }) : "";
      await takeText(api.complete(body, signal), node, () => this.changed(node));
    });
  }

  /** How likely each token of the text is. */
  look() {
    const prompt = this.field.value;
    if (this.job || !prompt) return this.field.focus();
    this.versions = [];
    this.score = { content: "", tokens: [] };
    const node = this.score;
    this.note.textContent = "";
    return this.run(node, async (signal) => {
      const model = await this.app.ready(this.app.settings.get("model"));
      await takeText(this.app.api.complete(scoreRequest(model, prompt), signal), node, () => {});
      node.tokens = within(node.tokens, prompt);
      node.usage = null;
    });
  }

  async run(node, work) {
    const { app } = this;
    this.job = new AbortController();
    this.refresh();
    app.announce("writing");
    try {
      await work(this.job.signal);
      app.announce("written");
    } catch (error) {
      node.end = "stopped";
      if (error.name === "AbortError") app.announce("stopped");
      else node.error = { kind: error.kind ?? "refused", message: error.message };
      if (error.name !== "AbortError" && !error.kind) throw error;
    } finally {
      this.job = null;
      cancelAnimationFrame(this.due);
      this.due = null;
      this.refresh();
    }
  }

  changed(node) {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.drawTokens(node);
    });
  }

  get node() {
    return this.score ?? this.versions[this.place];
  }

  drawTokens(node) {
    if (!node.tokens?.length) this.plain.textContent = node.content;
    this.tokens.update(node.tokens ?? []);
  }

  refresh() {
    const { words } = this.app;
    this.write.textContent = words.say(this.job ? "stop" : "write_on");
    this.ask.disabled = Boolean(this.job);
    const { node } = this;
    this.out.replaceChildren();
    if (!node) return;
    this.plain = el("div", { class: "plain" });
    this.tokens = new TokenView(words, (_, place, anchor) => {
      const go = (other, text) => this.goOnFrom(node, place, other, text);
      this.app.popover.open(node.tokens, place, anchor, this.job ? null : go);
    });
    this.drawTokens(node);
    this.out.append(
      el("h2", { text: words.say(this.score ? "likelihood" : "continuation") }),
      node.tokens?.length || this.job ? el("p", { class: "hint", text: words.say("tokens_help") }) : "",
      this.plain,
      this.tokens.element,
      node.error ? el("div", { class: "problem", role: "alert" }, el("p", { text: this.app.saidOf(node.error) })) : "",
      el("div", { class: "foot" }, ...(this.job ? [] : this.foot(node))),
    );
  }

  foot(node) {
    const { words } = this.app;
    if (this.score)
      return [
        el("span", { class: "facts", text: this.bits(node.tokens) }),
        button(words.say("clear"), () => this.clear(), { kind: "small" }),
      ];
    return [
      this.switches(),
      button(words.say("keep"), () => this.keep(node), { kind: "small", id: "keep" }),
      button(words.say("another"), () => this.begin(this.prompt), { kind: "small" }),
      node.usage
        ? el("span", {
            class: "facts",
            text: words.say("tokens_speed", {
              tokens: words.count(node.usage.tokens),
              speed: words.number(node.usage.tokens / Math.max(node.usage.seconds, 1e-3)),
            }),
          })
        : "",
    ];
  }

  switches() {
    if (this.versions.length < 2) return "";
    const { words } = this.app;
    const turn = (step, label, name) =>
      button(words.say(label), () => this.choose(this.place + step, step), {
        icon: icon(name),
        disabled: !this.versions[this.place + step],
      });
    return el(
      "span",
      { class: "versions", role: "group", "aria-label": words.say("version", { n: this.place + 1, all: this.versions.length }) },
      turn(-1, "earlier_version", "left"),
      el("span", { class: "figure", text: `${this.place + 1}/${this.versions.length}` }),
      turn(1, "later_version", "right"),
    );
  }

  choose(place) {
    this.place = place;
    this.refresh();
    this.out.querySelector(".versions button:not(:disabled)")?.focus();
  }

  bits(tokens) {
    const scored = tokens.filter((token) => token.logprob !== null && token.logprob !== undefined);
    if (!scored.length) return "";
    const sum = scored.reduce((total, token) => total - token.logprob / Math.LN2, 0);
    return this.app.words.say("bits", { bits: this.app.words.number(sum / scored.length) });
  }

  /** Another token instead of the one at `place`, and on from there. */
  goOnFrom(node, place, other, text) {
    if (this.job) return;
    if (this.score) {
      this.setText(text);
      this.begin();
    } else {
      this.begin(this.prompt, { content: text, tokens: [...node.tokens.slice(0, place), { ...other, top: node.tokens[place].top }] });
    }
  }

  keep(node) {
    this.setText(this.field.value + node.content);
    this.clear();
    this.field.focus();
    this.field.scrollTop = this.field.scrollHeight;
  }

  clear() {
    Object.assign(this, { versions: [], score: null, place: 0 });
    this.refresh();
  }

  setText(text) {
    this.field.value = text;
    this.app.settings.set("text", text);
  }
}

/** The tokens that make up the text, without what was written after it. */
function within(tokens, prompt) {
  const size = new TextEncoder().encode(prompt).length;
  const found = [];
  for (let bytes = 0; bytes < size && found.length < tokens.length; bytes += sizeOf(found.at(-1))) found.push(tokens[found.length]);
  return found;
}
