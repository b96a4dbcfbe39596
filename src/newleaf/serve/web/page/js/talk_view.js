// The messages of the chat that is shown, and the place they are read at.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";
import { MessageView } from "./message_view.js";
import { path } from "./tree.js";

const EXAMPLES = ["example_1", "example_2", "example_3", "example_4"];
const NEAR = 80; // pixels from the end within which the reader follows what is written

export class TalkView {
  constructor(app, acts) {
    Object.assign(this, { app, acts, views: new Map(), due: null, notBefore: 0 });
    this.list = el("div", { class: "messages" });
    this.scroll = el("div", { class: "scroll", tabindex: -1, on: { scroll: () => this.scrolled() } }, this.list);
    this.jump = button(app.words.say("jump"), () => this.toEnd(true), { icon: icon("down"), kind: "plain", id: "jump", hidden: true });
    this.element = el("div", { class: "talk-view" }, this.scroll, this.jump);
    new ResizeObserver(() => this.scrolled()).observe(this.list);
  }

  /** Draw the path that is shown; messages that stay keep their view. `writing` is the id of the one that is being written. */
  draw(talk, writing) {
    const shown = path(talk);
    const kept = new Map();
    for (const node of shown) {
      const old = this.views.get(node.id);
      const view = old && old.node === node ? old : new MessageView(this.app, talk, node, this.acts);
      kept.set(node.id, view);
      view.draw(node.id === writing);
    }
    this.views = kept;
    const elements = [...kept.values()].map((view) => view.element);
    this.list.replaceChildren(...(elements.length ? elements : [this.greeting(talk)]));
  }

  /** Everything anew, as for another language or another chat. */
  forget() {
    this.views = new Map();
  }

  /** Examples are for models that answer. */
  greeting(talk) {
    const { words } = this.app;
    const answers = this.app.modelOf(talk.model)?.chat !== false;
    const say = (name) => words.say(name);
    const example = (name) => el("li", {}, button(say(name), () => this.acts.example(say(name)), { kind: "plain example" }));
    const pointer = (name, link) => el("li", {}, link ? el("a", { href: link, text: say(`${name}_link`) }) : "", link ? " " : "", say(name));
    return el(
      "div",
      { class: "greeting" },
      el("img", { src: "leaf.svg", alt: "", width: 44, height: 44 }),
      el("h1", { text: say("greeting") }),
      el("p", { text: say("greeting_more") }),
      answers ? el("ul", { class: "examples", "aria-label": say("examples") }, EXAMPLES.map(example)) : null,
      el("ul", { class: "pointers" }, pointer("pointer_tokens"), pointer("pointer_text", "#text"), pointer("pointer_runs", "#runs")),
    );
  }

  /** Draw one answer's text, at most once a frame, and in no more than a quarter of the time. */
  refresh(node) {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      const begun = performance.now();
      if (begun < this.notBefore) return this.refresh(node);
      const view = this.views.get(node.id);
      if (!view) return undefined;
      const follow = this.atEnd();
      view.drawBody(true);
      if (follow) this.toEnd();
      this.notBefore = performance.now() + 3 * (performance.now() - begun);
      return undefined;
    });
  }

  settle() {
    if (this.due !== null) cancelAnimationFrame(this.due);
    this.due = null;
  }

  atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  toEnd(smoothly = false) {
    const smooth = smoothly && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.scroll.scrollTo({ top: this.scroll.scrollHeight, behavior: smooth ? "smooth" : "instant" });
  }

  scrolled() {
    this.jump.hidden = this.atEnd();
  }
}
