// What is known of a run's course: it grows by what the server has new.

const AXES = ["steps", "tokens", "seconds", "loss"];

export class RunHistory {
  constructor(id) {
    this.id = id;
    this.cursor = "";
    this.unit = "";
    this.known = null; // the run as it was when it was last asked
    this.samples = [];
    this.train = empty();
    this.validation = empty();
  }

  isNew(run) {
    const { known } = this;
    return known === null || run.state === "running" || run.steps !== known.steps || run.state !== known.state;
  }

  take({ run, unit, cursor, whole, train, validation, samples }) {
    if (whole) Object.assign(this, { train: empty(), validation: empty(), samples: [] });
    for (const axis of AXES) {
      this.train[axis].push(...train[axis]);
      this.validation[axis].push(...validation[axis]);
    }
    this.samples.push(...samples);
    Object.assign(this, { known: run, unit, cursor });
  }

  /** The lowest validation loss of the curve: {place, loss, step}, or null. */
  best() {
    const { loss, steps } = this.validation;
    if (!loss.length) return null;
    const place = loss.reduce((least, value, at) => (value < loss[least] ? at : least), 0);
    return { place, loss: loss[place], step: steps[place] };
  }

  /** Tokens a second over the last `share` of the run, or null. */
  speed(share = 0.1) {
    const { tokens, seconds } = this.train;
    const last = tokens.length - 1;
    if (last < 1) return null;
    const from = Math.max(0, Math.min(last - 1, Math.floor(last * (1 - share))));
    return seconds[last] > seconds[from] ? (tokens[last] - tokens[from]) / (seconds[last] - seconds[from]) : null;
  }

  /** Tokens a second at each place, over some neighbours, since one step is too short to tell. */
  speeds() {
    const { tokens, seconds } = this.train;
    const reach = Math.max(1, Math.ceil(tokens.length / 60));
    return tokens.map((_, at) => {
      const from = Math.max(0, at - reach);
      const to = Math.min(tokens.length - 1, at + reach);
      return seconds[to] > seconds[from] ? (tokens[to] - tokens[from]) / (seconds[to] - seconds[from]) : 0;
    });
  }
}

function empty() {
  return { steps: [], tokens: [], seconds: [], loss: [] };
}
