// The first view: chats, and everything a person does in one.

import { ChatHead } from "./chat_head.js";
import { Composer } from "./composer.js";
import { used } from "./context_meter.js";
import { button, el } from "./dom.js";
import { asJson, asMarkdown, fileName, save } from "./export.js";
import { takeIn } from "./import.js";
import { absorb } from "./merge.js";
import { TalkList } from "./talk_list.js";
import { TalkView } from "./talk_view.js";
import { add, choose, head, newTalk, path, touch, upTo, versions } from "./tree.js";
import { chatRequest, takeChat } from "./writing.js";

const SAVE_EVERY = 800; // milliseconds, while an answer comes

export class ChatView {
  constructor(app, talks) {
    this.app = app;
    this.talks = talks;
    this.talk = talks[0] ?? this.fresh();
    this.jobs = new Map(); // chats in which an answer is being written: talk id → {node, controller}
    this.element = el("div", { class: "chat view" });
    app.store.addEventListener("change", ({ detail }) => this.heard(detail));
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
      taken: (files) => this.take(files),
    });
    this.view = new TalkView(this.app, this.acts());
    this.composer = new Composer(this.app, { send: (text) => this.send(text), stop: () => this.stop(), editLast: () => this.editLast() });
    this.head = new ChatHead(this.app, {
      show: () => this.list.show(true),
      begin: () => this.begin(),
      exported: (kind) => this.exported(kind),
      changed: (values) => this.headChanged(values),
    });
    this.element.replaceChildren(
      this.list.element,
      el("section", { class: "talk", "aria-label": words.say("chat") }, this.head.element, this.view.element, this.composer.element),
    );
    this.composer.text = draft;
    this.refresh();
  }

  /** After being put on the page, where sizes are known. */
  shown(focus = true) {
    this.composer.changed();
    if (path(this.talk).length) this.view.toEnd();
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
      example: (text) => this.example(text),
    };
  }

  /** An example is put into the field, where it can be changed. */
  example(text) {
    this.composer.text = text;
    this.composer.field.focus();
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
    this.list.forget();
    if (!this.talks.includes(talk)) this.talks.unshift(talk);
    this.refresh();
    this.view.toEnd();
    app.announce("writing");
    let saved = performance.now();
    const changed = () => {
      touch(talk, node);
      if (this.talk === talk) this.view.refresh(node);
      if (performance.now() - saved > SAVE_EVERY) {
        saved = performance.now();
        this.keep(talk);
      }
    };
    try {
      const before = upTo(talk, node.parent);
      const model = await app.ready(talk.model);
      controller.signal.throwIfAborted();
      const request = chatRequest(app.settings, model, talk, before, node, versions(talk, node).place);
      await takeChat(app.api.chat(request, controller.signal), node, changed);
      app.announce("written");
    } catch (error) {
      this.broken(node, error);
    } finally {
      this.jobs.delete(talk.id);
      delete node.reading;
      touch(talk, node);
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

  /** A chat begins with the model and the system prompt that were chosen last. */
  fresh() {
    const { settings } = this.app;
    return newTalk(settings.get("system"), settings.get("model"));
  }

  begin() {
    if (path(this.talk).length) this.talk = this.fresh();
    this.opened();
  }

  open(talk) {
    this.talk = talk;
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
    this.forget(talk);
    await this.app.store.remove(talk.id);
  }

  forget(talk) {
    this.talks = this.talks.filter((other) => other !== talk);
    if (this.talk === talk) this.talk = this.talks[0] ?? this.fresh();
    this.view.forget();
    this.refresh();
  }

  restore(talk) {
    talk.changed = Date.now();
    this.talks.unshift(talk);
    this.keep(talk);
    this.list.forget();
    this.open(talk);
  }

  /** Title, system prompt or model were changed. */
  headChanged(values) {
    head(this.talk, values);
    for (const name of ["model", "system"]) if (name in values) this.app.settings.set(name, values[name]);
    if (this.talks.includes(this.talk)) this.keep(this.talk);
    if ("model" in values) this.app.ready(this.talk.model);
    this.refresh();
  }

  async keep(talk) {
    if (this.talks.includes(talk) && !(await this.app.store.put(talk))) this.gone(talk.id);
  }

  /** Another window changed a chat, or began or deleted one. */
  async heard(id) {
    const record = await this.app.store.get(id);
    if (!record) return this.gone(id);
    const known = this.find(id);
    if (known) absorb(known, record, (node) => this.jobs.get(id)?.node === node);
    else this.talks.push(record);
    return this.drawAfter(this.talk);
  }

  gone(id) {
    const talk = this.find(id);
    if (talk && !this.jobs.has(id)) this.forget(talk);
  }

  /** Take in chats from files. */
  async take(files) {
    const { store, words } = this.app;
    const last = await takeIn(files, this.talks, store).catch(() => null);
    if (last) this.open(last);
    this.list.say(words.say(last ? "imported" : "import_failed"));
  }

  find(id) {
    return this.talks.find((talk) => talk.id === id);
  }

  exported(kind) {
    if (kind === "json") save(fileName(this.talk, "json"), asJson(this.talk), "application/json");
    else save(fileName(this.talk, "md"), asMarkdown(this.talk, this.app.words), "text/markdown");
  }

  refresh() {
    const job = this.jobs.get(this.talk.id);
    const model = this.app.modelOf(this.talk.model);
    this.talks.sort((a, b) => b.changed - a.changed);
    this.list.draw(this.talks, this.talk);
    this.head.draw(this.talk);
    this.element.classList.toggle("empty", path(this.talk).length === 0);
    this.view.draw(this.talk, job?.node.id);
    this.composer.setWriting(Boolean(job));
    this.composer.tell(model?.chat === false ? this.baseNotice(model) : [], model?.chat === false);
    this.composer.meter.draw(used(this.talk), model?.context_length);
  }

  /** A base model does not answer: said before anything is sent. */
  baseNotice(model) {
    const { words } = this.app;
    return [
      el("p", {}, words.say("base_model", { model: model.id })),
      button(words.say("to_text"), () => this.toText(), { kind: "plain", id: "to-text" }),
    ];
  }

  /** What was typed goes along. */
  toText() {
    this.app.views.text.begun(this.composer.text, this.talk.model);
    this.composer.text = "";
    location.hash = "#text";
  }
}
