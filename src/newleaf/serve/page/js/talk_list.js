// The chats of this browser: choosing, beginning, deleting (which can be undone), taking them away as files.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";

export class TalkList {
  /** `acts`: begin(), open(talk), remove(talk), restore(talk), exported(talk, kind). */
  constructor(app, acts) {
    this.app = app;
    this.acts = acts;
    this.removed = null;
    this.list = el("ul", {});
    this.note = el("div", { class: "undo", role: "status" });
    const { words } = app;
    this.element = el(
      "aside",
      { class: "talks", id: "talks", "aria-label": words.say("talks") },
      el(
        "div",
        { class: "row" },
        button(words.say("new_talk"), () => this.acts.begin(), { kind: "plain grow new-talk" }),
        button(words.say("close"), () => this.show(false), { icon: icon("close"), kind: "narrow-only" }),
      ),
      this.list,
      this.note,
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.show(false));
  }

  /** On a narrow screen the list lies over the chat. */
  show(on) {
    this.element.classList.toggle("shown", on);
    (on ? this.element.querySelector("button") : document.querySelector("#show-talks"))?.focus();
  }

  draw(talks, current) {
    const { words } = this.app;
    this.list.replaceChildren(
      ...talks.map((talk) => {
        const title = talk.title || words.say("untitled");
        const here = talk.id === current.id;
        return el(
          "li",
          { class: here ? "here" : "" },
          el("button", {
            type: "button",
            class: "talk-name",
            "aria-current": here ? "true" : null,
            text: title,
            on: { click: () => this.acts.open(talk) },
          }),
          button(words.say("delete_talk", { title }), () => this.remove(talk), { icon: icon("trash") }),
        );
      }),
    );
    this.drawNote();
  }

  remove(talk) {
    this.removed = talk;
    this.acts.remove(talk);
    this.note.querySelector("button")?.focus();
  }

  drawNote() {
    const { words } = this.app;
    const talk = this.removed;
    const back = () => {
      this.removed = null;
      this.acts.restore(talk);
    };
    this.note.replaceChildren(
      ...(talk
        ? [
            el("span", { text: words.say("deleted", { title: talk.title || words.say("untitled") }) }),
            button(words.say("undo"), back, { kind: "small" }),
          ]
        : []),
    );
  }
}
