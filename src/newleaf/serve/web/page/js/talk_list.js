// The chats of this browser: finding, choosing, beginning, deleting (which can be undone), and taking them in from files.

import { button, el } from "./dom.js";
import { icon } from "./icons.js";

const DAY = 86_400_000; // milliseconds

export class TalkList {
  /** `acts`: begin(), open(talk), remove(talk), restore(talk), taken(files). */
  constructor(app, acts) {
    Object.assign(this, { app, acts, removed: null, talks: [], current: null });
    const { words } = app;
    this.list = el("div", { class: "talk-groups" });
    this.note = el("div", { class: "undo", role: "status" });
    this.search = el("input", {
      type: "search",
      id: "search",
      "aria-label": words.say("search_talks"),
      placeholder: words.say("search_talks"),
      on: { input: () => this.drawList() },
    });
    const files = el("input", {
      type: "file",
      id: "import-file",
      class: "unseen",
      tabindex: -1,
      accept: ".json,application/json",
      multiple: true,
      "aria-label": words.say("import"),
      on: { change: () => this.taken(files) },
    });
    this.element = el(
      "aside",
      { class: "talks", id: "talks", "aria-label": words.say("talks") },
      el(
        "div",
        { class: "row" },
        button(words.say("new_talk"), () => this.acts.begin(), { kind: "plain grow new-talk" }),
        button(words.say("close"), () => this.show(false), { icon: icon("close"), kind: "narrow-only" }),
      ),
      this.search,
      this.list,
      this.note,
      button(words.say("import"), () => files.click(), { kind: "small", id: "import" }),
      files,
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && !this.search.value && this.show(false));
  }

  /** On a narrow screen the list lies over the chat. */
  show(on) {
    this.element.classList.toggle("shown", on);
    (on ? this.element.querySelector("button") : document.querySelector("#show-talks"))?.focus();
  }

  draw(talks, current) {
    Object.assign(this, { talks, current });
    this.search.hidden = talks.length < 2;
    this.drawList();
    this.drawNote();
  }

  drawList() {
    const { words } = this.app;
    const wanted = this.search.hidden ? "" : this.search.value.trim().toLowerCase();
    const found = this.talks.filter((talk) => !wanted || holds(talk, wanted));
    const groups = new Map();
    for (const talk of found) {
      const name = this.day(talk.changed);
      groups.set(name, [...(groups.get(name) ?? []), talk]);
    }
    const parts = [...groups].flatMap(([name, talks]) => [el("h3", { text: name }), el("ul", {}, talks.map((talk) => this.item(talk)))]);
    this.list.replaceChildren(...(found.length || !wanted ? parts : [el("p", { class: "hint", text: words.say("nothing_found") })]));
  }

  item(talk) {
    const { words } = this.app;
    const title = talk.title || words.say("untitled");
    const here = talk.id === this.current.id;
    return el(
      "li",
      { class: here ? "here" : "" },
      el("button", {
        type: "button",
        class: "talk-name",
        "aria-current": here ? "true" : null,
        title: `${title}\n${words.date(talk.changed)}`,
        text: title,
        on: { click: () => this.acts.open(talk) },
      }),
      button(words.say("delete_talk", { title }), () => this.remove(talk), { icon: icon("trash") }),
    );
  }

  /** Today, yesterday, this week, or a month. */
  day(time) {
    const { words } = this.app;
    const today = new Date().setHours(0, 0, 0, 0);
    if (time >= today) return words.say("today");
    if (time >= today - DAY) return words.say("yesterday");
    if (time >= today - 7 * DAY) return words.say("last_week");
    return words.month(time);
  }

  async taken(input) {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    await this.acts.taken(files);
  }

  remove(talk) {
    this.removed = talk;
    this.acts.remove(talk);
    this.note.querySelector("button")?.focus();
  }

  /** Say something where "deleted" is said. */
  say(text) {
    this.removed = null;
    this.note.replaceChildren(el("span", { text }));
  }

  drawNote() {
    const { words } = this.app;
    const talk = this.removed;
    const back = () => {
      this.removed = null;
      this.acts.restore(talk);
    };
    if (!talk) return;
    this.note.replaceChildren(
      el("span", { text: words.say("deleted", { title: talk.title || words.say("untitled") }) }),
      button(words.say("undo"), back, { kind: "small" }),
    );
  }

  /** Nothing more to undo. */
  forget() {
    this.removed = null;
    this.note.replaceChildren();
  }
}

/** Whether a chat's title, system prompt or messages hold these words. */
function holds(talk, wanted) {
  const has = (text) => text?.toLowerCase().includes(wanted);
  return has(talk.title) || has(talk.system) || Object.values(talk.nodes).some(({ content }) => has(content));
}
