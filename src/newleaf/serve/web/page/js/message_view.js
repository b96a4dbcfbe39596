// One message on the page: its text, its versions, and what can be done with it.

import { sends } from "./composer.js";
import { button, el } from "./dom.js";
import { icon } from "./icons.js";
import { GrowingMarkdown } from "./markdown.js";
import { TokenView } from "./token_view.js";
import { versions } from "./tree.js";

/** `acts` are what a person may do: edit, regenerate, goOn, choose, continueFrom, retry; `busy()` while an answer is being written. */
export class MessageView {
  constructor(app, talk, node, acts) {
    Object.assign(this, { app, talk, node, acts, asTokens: false, editing: false });
    this.body = el("div", { class: "body" });
    this.foot = el("div", { class: "foot" });
    this.element = el(
      "article",
      { class: `message ${node.role}`, "data-id": node.id, "aria-label": app.words.say(node.role === "user" ? "you" : "model") },
      this.body,
      this.foot,
    );
  }

  /** Draw everything. `writing` says that the answer is still coming. */
  draw(writing) {
    this.drawBody(writing);
    this.foot.replaceChildren(...(this.editing ? [] : this.node.role === "user" ? this.userFoot() : this.answerFoot(writing)));
  }

  /** Draw what changes as an answer comes. */
  drawBody(writing) {
    if (this.editing) return;
    this.element.classList.toggle("writing", writing);
    if (this.node.role === "user") this.body.replaceChildren(el("div", { class: "said", text: this.node.content }));
    else if (this.asTokens) this.drawTokens();
    else this.drawAnswer(writing);
  }

  /** The same elements as before, with what is new in them. */
  drawAnswer(writing) {
    const { node } = this;
    this.answer ??= this.answerParts();
    const { thoughts, thought, prose, waiting } = this.answer;
    if (prose.element.parentNode !== this.body) this.body.replaceChildren(prose.element, waiting);
    if (!node.reasoning) thoughts.remove();
    else if (thoughts.parentNode !== this.body) this.body.prepend(thoughts);
    thought.update(node.reasoning ?? "", writing && !node.content);
    prose.update(node.content, writing);
    waiting.hidden = !writing || node.content !== "";
    this.drawReading(waiting.hidden ? null : node.reading);
  }

  answerParts() {
    const { words } = this.app;
    const copy = (read) => button(words.say("copy"), () => this.app.copy(read()), { kind: "small" });
    const tools = { say: (name) => words.say(name), codeTools: (read) => [copy(read)] };
    const thought = new GrowingMarkdown(el("div", { class: "prose" }), tools);
    return {
      thought,
      thoughts: el("details", { class: "thoughts" }, el("summary", { text: words.say("thoughts") }), thought.element),
      prose: new GrowingMarkdown(el("div", { class: "prose" }), tools),
      waiting: el("div", { class: "waiting" }, el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i"))),
    };
  }

  /** How much of a long prompt has been read. */
  drawReading(reading) {
    const { waiting } = this.answer;
    const { words } = this.app;
    if (!reading || reading.processed >= reading.total) return this.readingLine?.remove();
    this.readingLine ??= el("label", { class: "reading-prompt hint" }, el("span", {}), el("progress", {}));
    const [said, bar] = this.readingLine.children;
    said.textContent = words.say("reading_prompt", { done: words.count(reading.processed), all: words.count(reading.total) });
    Object.assign(bar, { max: reading.total, value: reading.processed });
    if (!this.readingLine.isConnected) waiting.append(this.readingLine);
    return undefined;
  }

  drawTokens() {
    const { node, app } = this;
    if (!this.views) {
      this.views = { thoughts: new TokenView(app.words, (_, place, anchor) => app.popover.open(node.thoughtTokens, place, anchor)) };
      this.views.answer = new TokenView(app.words, (_, place, anchor) => {
        const go = (other, text) => this.acts.continueFrom(node, place, other, text);
        app.popover.open(node.tokens, place, anchor, this.acts.busy() ? null : go);
      });
      this.body.replaceChildren(
        el("p", { class: "hint", text: app.words.say("tokens_help") }),
        node.thoughtTokens?.length
          ? el("div", { class: "thoughts open" }, el("p", { class: "hint", text: app.words.say("thoughts") }), this.views.thoughts.element)
          : "",
        this.views.answer.element,
      );
    }
    this.views.thoughts.update(node.thoughtTokens ?? []);
    this.views.answer.update(node.tokens ?? []);
  }

  userFoot() {
    const { words } = this.app;
    return [
      el(
        "span",
        { class: "acts" },
        button(words.say("edit"), () => this.edit(), { icon: icon("edit"), disabled: this.acts.busy() }),
        button(words.say("copy"), () => this.app.copy(this.node.content), { icon: icon("copy") }),
      ),
      this.switches(),
    ];
  }

  answerFoot(writing) {
    const { node, app, acts } = this;
    const { words } = app;
    if (node.error) return [this.problem(), this.switches()];
    if (writing) return [];
    const cut = node.end === "length" || node.end === "stopped";
    const tokens = node.tokens?.length || node.thoughtTokens?.length;
    return [
      this.switches(),
      el(
        "span",
        { class: "acts" },
        button(words.say("copy"), () => app.copy(node.content), { icon: icon("copy") }),
        button(words.say("regenerate"), () => acts.regenerate(node), { icon: icon("again"), disabled: acts.busy() }),
        tokens
          ? button(words.say(this.asTokens ? "hide_tokens" : "look_tokens"), () => this.toggleTokens(), {
              icon: icon("tokens"),
              "aria-pressed": String(this.asTokens),
            })
          : null,
        cut && node.content ? button(words.say("go_on"), () => acts.goOn(node), { icon: icon("more"), disabled: acts.busy() }) : null,
      ),
      el("span", { class: "facts", text: this.facts() }),
    ];
  }

  facts() {
    const { words } = this.app;
    const { usage, end, model } = this.node;
    const said = [];
    if (usage) {
      const values = { tokens: words.count(usage.tokens), speed: words.number(usage.tokens / Math.max(usage.seconds, 1e-3)) };
      said.push(words.say(usage.seconds > 0.05 ? "tokens_speed" : "tokens_only", values));
    }
    if (words.has(`end_${end}`)) said.push(words.say(`end_${end}`));
    if (model && this.app.models.length > 1) said.unshift(model);
    return said.join(" · ");
  }

  problem() {
    const { words } = this.app;
    return el(
      "div",
      { class: "problem", role: "alert" },
      el("p", { text: this.app.saidOf(this.node.error) }),
      button(words.say("try_again"), () => this.acts.retry(this.node), { kind: "plain" }),
    );
  }

  switches() {
    const { all, place } = versions(this.talk, this.node);
    if (all.length < 2) return "";
    const { words } = this.app;
    const turn = (step, label, name) =>
      button(words.say(label), () => this.acts.choose(this.node, place + step), {
        icon: icon(name),
        disabled: this.acts.busy() || place + step < 0 || place + step >= all.length,
      });
    return el(
      "span",
      { class: "versions", role: "group", "aria-label": words.say("version", { n: place + 1, all: all.length }) },
      turn(-1, "earlier_version", "left"),
      el("span", { class: "figure", text: `${place + 1}/${all.length}` }),
      turn(1, "later_version", "right"),
    );
  }

  toggleTokens(on = !this.asTokens) {
    this.asTokens = on;
    this.views = null;
    this.draw(false);
    (on ? this.body.querySelector(".token") : this.foot.querySelector("[aria-pressed]"))?.focus();
  }

  edit() {
    const { words } = this.app;
    this.editing = true;
    const done = (text) => {
      if (text !== null && this.acts.busy()) return; // one answer at a time: what was typed stays
      this.editing = false;
      if (text === null || !text.trim() || text === this.node.content) {
        this.draw(false);
        this.foot.querySelector("button")?.focus();
      } else this.acts.edit(this.node, text);
    };
    const field = el("textarea", { rows: 3, "aria-label": words.say("edit_message"), is: { value: this.node.content } });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") done(null);
      else if (sends(event, this.app.settings)) done(field.value);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.body.replaceChildren(
      el(
        "div",
        { class: "editor" },
        field,
        el(
          "div",
          { class: "row end" },
          button(words.say("cancel"), () => done(null)),
          button(words.say("resend"), () => done(field.value), { kind: "primary" }),
        ),
      ),
    );
    this.foot.replaceChildren();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
