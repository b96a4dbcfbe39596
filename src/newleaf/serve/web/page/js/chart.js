// A line chart in SVG: faint points' line, a strong one with dots, axes with round numbers, and a reading at the pointer or the arrow keys.

import { el, svg } from "./dom.js";

const EDGE = { top: 12, right: 14, bottom: 30, left: 46 };
const TRANSIENT = 0.05; // of a run's beginning does not decide how high the picture reaches
const MOST = 700; // points drawn

export class Chart {
  /** `height` in pixels; the width is the parent's. */
  constructor(height) {
    this.height = height;
    this.reading = el("p", { class: "reading figure" });
    this.picture = svg("svg", { role: "img", tabindex: 0, class: "chart" });
    this.element = el("figure", {}, this.picture, this.reading);
    this.at = null;
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerleave", () => this.read(null));
    this.picture.addEventListener("blur", () => this.read(null));
    this.picture.addEventListener("keydown", (event) => this.keys(event));
    new ResizeObserver(() => this.shape && this.width() !== this.drawnWidth && this.draw(this.shape)).observe(this.element);
  }

  /** `lines`: [{name, x, y, strong, said, run, best}], read together at the places of the first: `said` is what a line is called there, `run` the
   * colour of another run's (1, 2, …), `best` the place of a point that is ringed; `label` says it all; `sayX`, `sayY` format a value;
   * `fromZero` starts y at 0. */
  draw(shape) {
    this.shape = shape;
    this.drawnWidth = this.width();
    const width = this.drawnWidth;
    const { lines, label, sayX, sayY } = shape;
    this.picture.setAttribute("aria-label", label);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.picture.setAttribute("height", this.height);
    const [low, high] = shape.fromZero ? [0, Math.max(...lines[0].y, 1e-9) * 1.08] : range(lines);
    const far = Math.max(...lines.flatMap((line) => line.x.slice(-1)), 1e-9);
    this.toX = (value) => EDGE.left + (value / far) * (width - EDGE.left - EDGE.right);
    this.toY = (value) => EDGE.top + (1 - (value - low) / (high - low)) * (this.height - EDGE.top - EDGE.bottom);
    const floor = this.height - EDGE.bottom;
    const grid = ticks(low, high, 5).map((value) => [
      svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: this.toY(value), y2: this.toY(value) }),
      svg("text", { class: "tick", x: EDGE.left - 8, y: this.toY(value) + 4, "text-anchor": "end", text: sayY(value) }),
    ]);
    const along = (shape.ticksX ?? ticks)(0, far, width < 480 ? 4 : 7).map((value) =>
      svg("text", { class: "tick", x: this.toX(value), y: floor + 20, "text-anchor": "middle", text: sayX(value) }),
    );
    const paths = lines.map((line) => this.line(line, floor));
    this.cross = svg("g", { class: "cross", visibility: "hidden" }, svg("line", { y1: EDGE.top, y2: floor }), svg("circle", { r: 4 }));
    this.picture.replaceChildren(
      ...grid.flat(),
      svg("line", { class: "floor", x1: EDGE.left, x2: width - EDGE.right, y1: floor, y2: floor }),
      ...along,
      ...paths.flat(),
      this.cross,
    );
    this.read(this.at);
  }

  line({ x, y, strong, name, run, best }) {
    const drawn = x.map((_, place) => place).filter((place) => place % Math.ceil(x.length / MOST) === 0 || place === x.length - 1);
    const top = (value) => Math.max(this.toY(value), EDGE.top - 4); // what is above the picture runs along its edge
    const path = drawn.map((place, first) => `${first ? "L" : "M"}${this.toX(x[place]).toFixed(1)} ${top(y[place]).toFixed(1)}`).join("");
    const dots =
      strong && x.length <= 40
        ? drawn.map((place) => svg("circle", { class: "dot", cx: this.toX(x[place]), cy: top(y[place]), r: 3 }))
        : [];
    const ring = best >= 0 ? [svg("circle", { class: "best", cx: this.toX(x[best]), cy: top(y[best]), r: 6 })] : [];
    const kind = `${strong ? "line strong" : "line"}${run ? ` run-${run}` : ""}`;
    return [svg("path", { class: kind, "data-name": name, d: path }), ...(run ? [] : dots), ...ring];
  }

  width() {
    return Math.max(260, Math.round(this.element.clientWidth || 600));
  }

  point(event) {
    const box = this.picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.drawnWidth;
    this.read(nearest(this.shape.lines[0].x, (value) => Math.abs(this.toX(value) - x)));
  }

  keys(event) {
    const last = (this.shape?.lines[0].x.length ?? 0) - 1;
    const at = this.at ?? last;
    const leap = Math.max(1, Math.round(last / 50));
    const to = { ArrowLeft: at - leap, ArrowRight: at + leap, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.read(Math.max(0, Math.min(last, to)));
  }

  read(place) {
    const line = this.shape?.lines[0];
    this.at = line && place !== null && place < line.x.length ? place : null;
    if (!this.cross) return;
    this.cross.setAttribute("visibility", this.at === null ? "hidden" : "visible");
    if (this.at === null) {
      this.reading.textContent = "";
      return;
    }
    const [x, y] = [line.x[this.at], line.y[this.at]];
    this.cross.firstChild.setAttribute("x1", this.toX(x));
    this.cross.firstChild.setAttribute("x2", this.toX(x));
    this.cross.lastChild.setAttribute("cx", this.toX(x));
    this.cross.lastChild.setAttribute("cy", Math.max(this.toY(y), EDGE.top - 4));
    const said = this.shape.lines.map((each) => {
      const value = this.shape.sayY(each.y[nearest(each.x, (other) => Math.abs(other - x))], true);
      return each.said ? `${each.said} ${value}` : value;
    });
    this.reading.textContent = [this.shape.sayX(x), ...said].join(" · ");
  }
}

/** The place with the least distance. */
function nearest(values, distance) {
  let best = 0;
  for (let place = 1; place < values.length; place++) if (distance(values[place]) < distance(values[best])) best = place;
  return best;
}

/** Lowest and highest of what is worth seeing. */
function range(lines) {
  const far = Math.max(...lines.flatMap((line) => line.x.slice(-1)));
  const seen = lines.flatMap((line) => line.y.filter((_, place) => line.x[place] >= TRANSIENT * far));
  const low = seen.reduce((least, value) => Math.min(least, value), Infinity);
  const high = seen.reduce((most, value) => Math.max(most, value), -Infinity);
  const room = 0.06 * (high - low || Math.abs(high) || 1);
  return [low - room, high + room];
}

/** Round numbers between two values, about so many. */
export function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let place = Math.ceil(low / step); place * step <= high * (1 + 1e-9); place++) found.push(Number((place * step).toPrecision(12)));
  return found;
}

/** The same for seconds, minutes and hours. */
export function timeTicks(low, high, count) {
  const steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400];
  const step = steps.find((size) => size >= (high - low) / count) ?? 86400 * Math.ceil((high - low) / count / 86400);
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, place) => place * step);
}

/** The mean over some neighbours to each side; wider as the list grows. */
export function smoothed(values) {
  const sums = [0];
  for (const value of values) sums.push(sums.at(-1) + value);
  const reach = Math.max(1, Math.floor(values.length / 40));
  return values.map((_, at) => {
    const left = Math.min(at, reach);
    const right = Math.min(left, values.length - 1 - at);
    return (sums[at + right + 1] - sums[at - left]) / (left + right + 1);
  });
}
