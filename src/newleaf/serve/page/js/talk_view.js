// The messages of the chat that is shown, and the place they are read at.

import { el } from "./dom.js";
import { MessageView } from "./message_view.js";
import { path } from "./tree.js";

const NEAR = 80; // pixels from the end within which the reader follows what is written

export class TalkView {
  constructor(app, acts) {
    Object.assign(this, { app, acts, views: new Map(), due: null, notBefore: 0 });
    this.list = el("div", { class: "messages" });
    this.element = el("div", { class: "scroll", tabindex: -1 }, this.list);
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
    this.list.replaceChildren(...(elements.length ? elements : [this.greeting()]));
  }

  /** Everything anew, as for another language or another chat. */
  forget() {
    this.views = new Map();
  }

  greeting() {
    const { words } = this.app;
    if (this.app.model?.chat === false)
      return el(
        "div",
        { class: "greeting" },
        el("p", {}, words.say("chatless"), " ", el("a", { href: "#text", text: words.say("text_title") })),
      );
    return el(
      "div",
      { class: "greeting" },
      el("img", { src: "leaf.svg", alt: "", width: 44, height: 44 }),
      el("h1", { text: words.say("greeting") }),
      el("p", { text: words.say("greeting_more") }),
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
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  toEnd() {
    this.element.scrollTop = this.element.scrollHeight;
  }
}
