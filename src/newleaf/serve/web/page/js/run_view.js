// One run: its figures, its curves, and what it wrote on the way.

import { Chart, smoothed, ticks, timeTicks } from "./chart.js";
import { el } from "./dom.js";

const AXES = ["steps", "tokens", "seconds"];
const MOST_SAMPLES = 24;

export class RunView {
  constructor(app) {
    this.app = app;
    const { words, settings } = app;
    this.loss = new Chart(300);
    this.speed = new Chart(140);
    this.name = el("h1", {});
    this.state = el("span", { class: "badge" });
    this.facts = el("dl", { class: "facts-grid" });
    this.notes = el("div", {});
    this.samples = el("div", { class: "samples" });
    const pick = el(
      "select",
      { id: "axis", on: { change: () => settings.set("axis", pick.value) } },
      AXES.map((name) => el("option", { value: name, text: words.say(`axis_${name}`), selected: settings.get("axis") === name })),
    );
    settings.addEventListener(
      "change",
      ({ detail }) => detail === "axis" && this.element.isConnected && this.run && this.draw(this.run, this.history, this.others),
    );
    this.lossHead = el("h2", {});
    this.legend = el("p", { class: "legend" });
    this.curves = el(
      "div",
      { class: "curves" },
      el(
        "div",
        { class: "row between" },
        this.lossHead,
        el("span", { class: "row" }, el("label", { for: "axis", text: words.say("axis") }), pick),
      ),
      this.legend,
      this.loss.element,
      el("h2", { text: words.say("speed_curve") }),
      this.speed.element,
    );
    this.none = el("p", { class: "hint", text: words.say("no_points") });
    this.element = el(
      "section",
      { class: "run", "aria-label": words.say("runs") },
      el(
        "div",
        { class: "page" },
        el("div", { class: "row" }, this.name, this.state),
        this.notes,
        this.facts,
        this.none,
        this.curves,
        el("h2", { text: words.say("samples") }),
        this.samples,
      ),
    );
  }

  /** `others` are histories that are drawn over this run's. */
  draw(run, history, others = []) {
    Object.assign(this, { run, history, others });
    const { words } = this.app;
    this.name.textContent = run.name;
    this.state.textContent = words.say(`run_state_${run.state}`);
    this.state.className = `badge ${run.state}`;
    this.notes.replaceChildren(...run.notes.map((note) => el("p", { class: "hint", text: note })));
    this.facts.replaceChildren(
      ...this.figures(run, history).flatMap(([label, value, unit]) =>
        el("div", { class: label === "fact_text" ? "wide" : "" }, el("dt", { text: words.say(label) }), el("dd", {}, value, unit ? el("small", { text: ` ${unit}` }) : "")),
      ),
    );
    const drawn = Boolean(history?.train.steps.length);
    this.none.hidden = drawn || !history;
    this.curves.hidden = !drawn;
    if (drawn) this.drawCurves(run, history);
    this.drawSamples(history?.samples ?? []);
  }

  figures(run, history) {
    const { words } = this.app;
    const best = history?.best();
    const bits = run.val_bits_per_byte;
    const unit = words.say(`unit_${history?.unit || "bits per byte"}`);
    // The curve's lowest point; what the model scores on all held-out text is another figure, measured at the end.
    const whole = best && run.state === "finished" && bits !== null && history.unit === "bits per byte" && bits.toFixed(3) !== best.loss.toFixed(3);
    const speed = history?.speed(run.state === "running" ? 0.1 : 1);
    return [
      ["fact_loss", best ? best.loss.toFixed(3) : bits === null ? null : bits.toFixed(3), unit],
      ["fact_best_step", best ? words.count(best.step) : null],
      ["fact_whole", whole ? bits.toFixed(3) : null, unit],
      ["fact_speed", speed ? words.count(speed) : null],
      ["fact_steps", words.count(run.steps)],
      ["fact_tokens", words.count(run.tokens)],
      ["fact_time", run.seconds === null ? null : words.duration(run.seconds)],
      ["fact_parameters", run.parameters === null ? null : words.count(run.parameters)],
      ["fact_shape", run.shape || null],
      ["fact_text", run.text.length > 80 ? `${run.text.slice(0, 79)}…` : run.text || null],
    ].filter(([, value]) => value !== null);
  }

  drawCurves(run, history) {
    const { words, settings } = this.app;
    const axis = settings.get("axis");
    const time = axis === "seconds";
    const { train, validation, unit } = history;
    const unitSaid = words.say(`unit_${unit}`);
    this.lossHead.textContent = `${words.say("loss_curve")} · ${unitSaid}`;
    const sayX = (value) => (time ? words.duration(value) : `${words.count(value)}`);
    const common = { sayX, ticksX: time ? timeTicks : ticks };
    const smooth = smoothed(train.loss);
    const place = (value, long) => (long ? value.toFixed(4) : String(Number(value.toPrecision(4))));
    const said = this.others.length ? `${run.name}, ` : "";
    const best = history.best();
    this.loss.draw({
      ...common,
      lines: [
        { name: "training", said: said + words.say("training"), x: train[axis], y: smooth },
        { name: "validation", said: said + words.say("validation"), x: validation[axis], y: validation.loss, strong: true, best: best?.place },
        ...this.others.map((other, number) => this.otherLine(other, axis, number + 1)),
      ].filter((line) => line.x.length),
      sayY: place,
      label: this.described("loss_curve", run, smooth, (value) => value.toFixed(3)),
    });
    this.drawLegend(unit);
    const speeds = history.speeds();
    this.speed.draw({
      ...common,
      lines: [{ name: "speed", x: train[axis], y: speeds, strong: false }],
      fromZero: true,
      sayY: (value) => words.short(value),
      label: this.described("speed_curve", run, speeds, (value) => words.count(value)),
    });
  }

  /** Another run's validation, or where it has none its training. */
  otherLine({ known, validation, train }, axis, number) {
    const { words } = this.app;
    const checked = validation.loss.length > 0;
    const said = `${known.name}, ${words.say(checked ? "validation" : "training")}`;
    if (checked) return { name: known.id, said, run: number, x: validation[axis], y: validation.loss, strong: true };
    return { name: known.id, said, run: number, x: train[axis], y: smoothed(train.loss), strong: true };
  }

  drawLegend(unit) {
    const { words } = this.app;
    const others = this.others.map(({ known }, number) => el("span", { class: `key strong run-${number + 1}`, text: known.name }));
    const strange = this.others.filter((other) => other.unit !== unit).map(({ known }) => known.name);
    this.legend.replaceChildren(
      el("span", { class: "key", text: words.say("training") }),
      el("span", { class: "key strong", text: words.say("validation") }),
      ...others,
      ...(strange.length ? [el("span", { text: words.say("other_unit", { runs: strange.join(", ") }) })] : []),
    );
  }

  described(title, run, values, say) {
    const low = values.reduce((least, value) => Math.min(least, value), Infinity);
    return this.app.words.say("curve_said", {
      title: this.app.words.say(title),
      run: run.name,
      first: say(values[0]),
      last: say(values.at(-1)),
      low: say(low),
      n: run.steps,
    });
  }

  drawSamples(samples) {
    const { words } = this.app;
    const last = samples.slice(-MOST_SAMPLES).reverse();
    if (this.drawnSamples === samples.at(-1) && samples.length) return; // a selection in them stays
    this.drawnSamples = samples.at(-1);
    this.samples.replaceChildren(
      ...(last.length
        ? last.map(({ step, prompt, sample }) =>
            el(
              "figure",
              { class: "sample" },
              el("figcaption", { text: words.say("sample_step", { step: words.count(step) }) }),
              el("pre", { tabindex: 0 }, el("span", { class: "prompt", text: prompt }), sample),
            ),
          )
        : [el("p", { class: "hint", text: words.say("no_samples") })]),
    );
  }
}
