// The first view: chats, and everything a person does in one.

import { Composer } from "./composer.js";
import { button, el } from "./dom.js";
import { asJson, asMarkdown, fileName, save } from "./export.js";
import { icon } from "./icons.js";
import { TalkList } from "./talk_list.js";
import { TalkView } from "./talk_view.js";
import { add, choose, newTalk, path, upTo, versions } from "./tree.js";
import { chatRequest, takeChat } from "./writing.js";

const SAVE_EVERY = 800; // milliseconds, while an answer comes

export class ChatView {
  constructor(app, talks) {
    this.app = app;
    this.talks = talks;
    this.talk = talks[0] ?? this.fresh();
    this.jobs = new Map(); // chats in which an answer is being written: talk id → {node, controller}
    this.element = el("div", { class: "chat view" });
    app.settings.addEventListener("change", ({ detail }) => detail === "system" && this.systemChanged());
    addEventListener("pagehide", () => this.jobs.forEach((_, id) => this.keep(this.find(id))));
  }

  /** Build everything in the language of now. */
  draw() {
    const { words } = this.app;
    const draft = this.composer?.text ?? "";
    this.list = new TalkList(this.app, {
      begin: () => this.begin(),
      open: (talk) => this.open(talk),
      remove: (talk) => this.remove(talk),
      restore: (talk) => this.restore(talk),
    });
    this.view = new TalkView(this.app, this.acts());
    this.composer = new Composer(words, { send: (text) => this.send(text), stop: () => this.stop(), editLast: () => this.editLast() });
    this.title = el("h2", {});
    const bar = el(
      "div",
      { class: "bar-top" },
      button(words.say("show_talks"), () => this.list.show(true), { icon: icon("list"), kind: "narrow-only", id: "show-talks" }),
      this.title,
      this.exporter("md", words.say("export_markdown"), "Markdown", "MD"),
      this.exporter("json", words.say("export_json"), "JSON", "JSON"),
      button(words.say("new_talk"), () => this.begin(), { icon: icon("plus"), kind: "narrow-only" }),
    );
    this.element.replaceChildren(
      this.list.element,
      el("section", { class: "talk", "aria-label": words.say("chat") }, bar, this.view.element, this.composer.element),
    );
    this.composer.text = draft;
    this.refresh();
  }

  /** After being put on the page, where sizes are known. */
  shown(focus = true) {
    this.composer.changed();
    this.view.toEnd();
    if (focus && matchMedia("(pointer: fine)").matches) this.composer.field.focus({ preventScroll: true });
  }

  leave() {}

  acts() {
    return {
      busy: () => this.jobs.has(this.talk.id),
      edit: (node, text) => this.answer(add(this.talk, node.parent, "user", text)),
      regenerate: (node) => this.answer(this.talk.nodes[node.parent]),
      retry: (node) => this.write(node),
      goOn: (node) => this.write(node),
      choose: (node, place) => this.choose(node, place),
      continueFrom: (node, place, other, text) => this.continueFrom(node, place, other, text),
    };
  }

  send(text) {
    if (this.jobs.has(this.talk.id)) return;
    this.answer(add(this.talk, path(this.talk).at(-1)?.id ?? null, "user", text));
  }

  /** A new answer to a message, beside the earlier ones. */
  answer(question) {
    if (!this.jobs.has(this.talk.id)) this.write(add(this.talk, question.id, "assistant", ""));
  }

  /** The answer as it was up to a token, another token, and what the model makes of that: one more version. */
  continueFrom(node, place, other, text) {
    if (this.jobs.has(this.talk.id)) return;
    const kept = node.tokens.slice(0, place);
    const branch = add(this.talk, node.parent, "assistant", text, {
      tokens: [...kept, { ...other, top: node.tokens[place].top }],
      reasoning: node.reasoning,
      thoughtTokens: node.thoughtTokens,
    });
    this.write(branch).then(() => {
      // The token that had the focus is gone.
      if (document.activeElement === document.body) this.view.views.get(branch.id)?.element.querySelector("[aria-pressed]")?.focus();
    });
    const view = this.view.views.get(branch.id);
    view.asTokens = true;
    view.draw(true);
  }

  /** Ask for the rest of an answer and take it in. */
  async write(node) {
    const { talk, app } = this;
    const controller = new AbortController();
    this.jobs.set(talk.id, { node, controller });
    Object.assign(node, { error: null, end: null, usage: null }, node.content ? {} : { tokens: [], reasoning: "", thoughtTokens: [] });
    this.list.removed = null;
    if (!this.talks.includes(talk)) this.talks.unshift(talk);
    this.refresh();
    this.view.toEnd();
    app.announce("writing");
    let saved = performance.now();
    const changed = () => {
      if (this.talk === talk) this.view.refresh(node);
      if (performance.now() - saved > SAVE_EVERY) {
        saved = performance.now();
        this.keep(talk);
      }
    };
    try {
      const before = upTo(talk, node.parent);
      const request = chatRequest(app.settings, talk, before, node, versions(talk, node).place);
      await takeChat(app.api.chat(request, controller.signal), node, changed);
      app.announce("written");
    } catch (error) {
      this.broken(node, error);
    } finally {
      this.jobs.delete(talk.id);
      talk.changed = Date.now();
      this.keep(talk);
      this.view.settle();
      this.drawAfter(talk);
    }
  }

  drawAfter(talk) {
    if (this.talk !== talk) return;
    const follow = this.view.atEnd();
    this.refresh();
    if (follow) this.view.toEnd();
  }

  broken(node, error) {
    if (error.name === "AbortError") {
      node.end = "stopped";
      this.app.announce("stopped");
    } else {
      node.end = "stopped";
      node.error = { kind: error.kind ?? "refused", message: error.message };
      if (!error.kind) throw error; // a mistake of the page's own: seen in the console
    }
  }

  stop() {
    this.jobs.get(this.talk.id)?.controller.abort();
  }

  editLast() {
    const last = path(this.talk).findLast((node) => node.role === "user");
    if (last && !this.jobs.has(this.talk.id)) this.view.views.get(last.id).edit();
  }

  choose(node, place) {
    if (this.jobs.has(this.talk.id)) return;
    choose(this.talk, node, place);
    this.keep(this.talk);
    this.refresh();
    const { all } = versions(this.talk, node);
    const now = this.view.views.get(all[place]);
    (now.foot.querySelector(".versions button:not(:disabled)") ?? this.composer.field).focus();
  }

  fresh() {
    return newTalk(this.app.settings.get("system"));
  }

  begin() {
    if (path(this.talk).length) this.talk = this.fresh();
    this.opened();
  }

  open(talk) {
    this.talk = talk;
    this.app.settings.set("system", talk.system);
    this.opened();
  }

  opened() {
    this.view.forget();
    this.list.element.classList.remove("shown");
    this.refresh();
    this.shown();
  }

  async remove(talk) {
    this.jobs.get(talk.id)?.controller.abort();
    this.talks = this.talks.filter((other) => other !== talk);
    if (this.talk === talk) this.talk = this.talks[0] ?? this.fresh();
    this.view.forget();
    this.refresh();
    await this.app.store.remove(talk.id);
  }

  restore(talk) {
    this.talks.unshift(talk);
    this.keep(talk);
    this.open(talk);
  }

  /** A system prompt belongs to the chat in which it was set, and to those that begin after it. */
  systemChanged() {
    const system = this.app.settings.get("system");
    if (this.talk.system === system) return;
    this.talk.system = system;
    if (this.talks.includes(this.talk)) this.keep(this.talk);
  }

  async keep(talk) {
    if (this.talks.includes(talk)) await this.app.store.put(talk);
  }

  find(id) {
    return this.talks.find((talk) => talk.id === id);
  }

  exporter(kind, label, long, short) {
    const name = [el("span", { class: "wide-only", text: long }), el("span", { class: "narrow-only", text: short })];
    return el(
      "button",
      { type: "button", class: "small", id: `export-${kind}`, "aria-label": label, title: label, on: { click: () => this.exported(kind) } },
      name,
      " ↓",
    );
  }

  exported(kind) {
    if (kind === "json") save(fileName(this.talk, "json"), asJson(this.talk), "application/json");
    else save(fileName(this.talk, "md"), asMarkdown(this.talk, this.app.words), "text/markdown");
  }

  refresh() {
    const { words } = this.app;
    const job = this.jobs.get(this.talk.id);
    this.talks.sort((a, b) => b.changed - a.changed);
    this.list.draw(this.talks, this.talk);
    this.title.textContent = this.talk.title || words.say("untitled");
    this.element.classList.toggle("empty", path(this.talk).length === 0);
    this.view.draw(this.talk, job?.node.id);
    this.composer.setWriting(Boolean(job));
  }
}
