// The third view: the training runs of a folder, and how one goes, while it goes.

import { el } from "./dom.js";
import { RunHistory } from "./run_history.js";
import { RunView } from "./run_view.js";

const MOST = 4; // runs over one another
const EVERY = 2000; // milliseconds between two looks

export class RunsView {
  constructor(app) {
    this.app = app;
    this.element = el("div", { class: "runs view" });
    this.found = null; // the server's list
    this.problem = null;
    this.history = null;
    this.compared = new Map(); // ids of the runs that are drawn over the chosen one → their histories
    this.timer = null;
    addEventListener("hashchange", () => this.timer !== null && this.choose());
    document.addEventListener("visibilitychange", () => this.timer !== null && !document.hidden && this.look());
  }

  draw() {
    const { words } = this.app;
    this.list = el("ul", {});
    this.view = new RunView(this.app);
    this.drawn = null;
    this.empty = el("div", { class: "greeting" });
    this.side = el(
      "aside",
      { class: "run-list", "aria-label": words.say("runs_title") },
      el("h2", { text: words.say("runs_title") }),
      this.list,
    );
    this.element.replaceChildren(this.side, this.view.element, this.empty);
    this.refresh();
  }

  shown() {
    this.timer ??= setInterval(() => document.hidden || this.look(), EVERY);
    this.look();
  }

  leave() {
    clearInterval(this.timer);
    this.timer = null;
  }

  /** The run that the address names, or the newest. */
  get chosen() {
    const all = this.found?.data ?? [];
    return all.find((run) => location.hash === `#runs/${encodeURIComponent(run.id)}`) ?? all[0];
  }

  async look() {
    if (this.looking) return;
    this.looking = true;
    try {
      this.found = await this.app.api.runs();
      this.found.data.sort((a, b) => (b.begun > a.begun ? 1 : b.begun < a.begun ? -1 : 0));
      this.problem = null;
      await this.follow();
    } catch (error) {
      if (!error.kind) throw error;
      this.problem = { kind: error.kind, message: error.message };
    } finally {
      this.looking = false;
      this.refresh();
    }
  }

  /** What is new of the chosen run; nothing is asked of one that has ended and is known. */
  async follow() {
    const run = this.chosen;
    if (!run) return;
    if (this.history?.id !== run.id) this.history = new RunHistory(run.id);
    for (const history of [this.history, ...this.others]) {
      const known = this.found.data.find(({ id }) => id === history.id);
      if (known && history.isNew(known)) history.take(await this.app.api.history(known.id, history.cursor));
    }
  }

  /** Histories that are drawn over the chosen run's. */
  get others() {
    return [...this.compared.values()].filter(({ id }) => id !== this.chosen?.id);
  }

  compare(id, on) {
    if (on) this.compared.set(id, new RunHistory(id));
    else this.compared.delete(id);
    this.choose();
  }

  choose() {
    this.refresh();
    this.look();
  }

  refresh() {
    const { words } = this.app;
    const all = this.found?.data ?? [];
    this.element.classList.toggle("empty", !all.length);
    this.empty.replaceChildren(...this.nothing(all));
    const here = this.chosen;
    const history = here && this.history?.id === here.id ? this.history : null;
    const others = this.others.filter(({ known }) => known);
    const drawn = JSON.stringify([all, here?.id, history?.cursor, ...others.map(({ id, cursor }) => [id, cursor]), [...this.compared.keys()]]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.list.replaceChildren(
      ...all.map((run) =>
        el(
          "li",
          { class: run === here ? "here" : "" },
          el(
            "a",
            { href: `#runs/${encodeURIComponent(run.id)}`, "aria-current": run === here ? "true" : null, "data-key": `run ${run.id}` },
            el("span", { class: `state ${run.state}`, "aria-hidden": "true" }),
            el("span", { class: "run-name", text: run.name }),
            el("span", { class: "figure", text: run.val_bits_per_byte === null ? "" : run.val_bits_per_byte.toFixed(3) }),
            el("span", { class: "run-state", text: words.say(`run_state_${run.state}`) }),
          ),
          all.length > 1 && run !== here ? this.comparing(run) : null,
        ),
      ),
    );
    if (focused) [...this.list.querySelectorAll("[data-key]")].find(({ dataset }) => dataset.key === focused)?.focus();
    if (here) this.view.draw(here, history, others);
  }

  comparing(run) {
    const tick = el("input", {
      type: "checkbox",
      "aria-label": this.app.words.say("compare_run", { run: run.name }),
      "data-key": `compare ${run.id}`,
      disabled: !this.compared.has(run.id) && this.others.length >= MOST,
      is: { checked: this.compared.has(run.id) },
      on: { change: () => this.compare(run.id, tick.checked) },
    });
    return el("label", { class: "compare", title: this.app.words.say("compare") }, tick);
  }

  nothing(all) {
    const { words } = this.app;
    if (this.problem) return [el("div", { class: "problem", role: "alert" }, el("p", { text: this.app.saidOf(this.problem) }))];
    if (!this.found || all.length) return [];
    if (!this.found.folder) return [el("p", { text: words.say("no_runs_folder") })];
    return [el("p", { text: words.say("no_runs") }), el("pre", { text: "newleaf pretrain book.txt --out DIR/book" })];
  }
}
