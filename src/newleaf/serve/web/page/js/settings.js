// What a person chose, kept in the browser. "change" is dispatched with the name of what changed.

const PLACE = "newleaf.settings";
const KEY = "newleaf.key";
const DEFAULTS = {
  model: "",
  system: "",
  temperature: null, // null: the model's
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  max_tokens: null,
  seed: null,
  enter_sends: true,
  logprobs: true,
  language: "", // "": the browser's
  theme: "auto",
  key: "",
  keep_key: false,
  axis: "steps",
  text: "",
};

/** What a request takes: from, to, and whether whole numbers only. */
export const RANGES = {
  temperature: { min: 0, max: 5 },
  top_p: { min: 0.01, max: 1 },
  top_k: { min: 0, max: 100_000, whole: true },
  min_p: { min: 0, max: 1 },
  repetition_penalty: { min: 0.1, max: 10 },
  max_tokens: { min: 1, max: 1_000_000, whole: true },
  seed: { min: 0, max: 2 ** 31 - 1, whole: true },
};
const OWN = ["text", "key", "keep_key"]; // of a window, not of all

export class Settings extends EventTarget {
  constructor() {
    super();
    this.values = { ...DEFAULTS, ...known(read(localStorage, PLACE)), key: "" };
    this.values.key = String(read(this.values.keep_key ? localStorage : sessionStorage, KEY) ?? "");
    addEventListener("storage", ({ key }) => key === PLACE && this.heard());
  }

  /** Another window changed some. */
  heard() {
    for (const [name, value] of Object.entries(known(read(localStorage, PLACE)))) {
      if (OWN.includes(name) || this.values[name] === value) continue;
      this.values[name] = value;
      this.dispatchEvent(new CustomEvent("change", { detail: name }));
    }
  }

  get(name) {
    if (!(name in DEFAULTS)) throw new Error(`no setting named ${name}`);
    return this.values[name];
  }

  set(name, value) {
    if (this.get(name) === value) return;
    this.values[name] = value;
    // Only this one: another window may have changed others.
    if (name !== "key") write(localStorage, PLACE, { ...known(read(localStorage, PLACE)), [name]: value });
    if (name === "key" || name === "keep_key") this.keepKey(this.values.key);
    this.dispatchEvent(new CustomEvent("change", { detail: name }));
  }

  /** The key lives with the tab, unless it is to be kept. */
  keepKey(key) {
    write(localStorage, KEY, this.values.keep_key ? key : null);
    write(sessionStorage, KEY, this.values.keep_key ? null : key);
  }

  /** The fields of a request: those that a person set, and the model's own (`defaults`) for the others. */
  sampling(defaults = {}) {
    const set = Object.keys(RANGES).map((name) => [name, this.get(name)]);
    return { ...defaults, ...Object.fromEntries(set.filter(([name, value]) => value !== null && fits(name, value))) };
  }
}

/** Whether a request may have this value. */
export function fits(name, value) {
  const { min, max, whole } = RANGES[name];
  return typeof value === "number" && value >= min && value <= max && (!whole || Number.isInteger(value));
}

function known(values) {
  const found = values && typeof values === "object" ? values : {};
  return Object.fromEntries(Object.entries(found).filter(([name]) => name in DEFAULTS));
}

function read(storage, place) {
  try {
    return JSON.parse(storage.getItem(place));
  } catch {
    return null;
  }
}

function write(storage, place, value) {
  try {
    if (value === null || value === "") storage.removeItem(place);
    else storage.setItem(place, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing: the setting holds until the page ends.
  }
}
