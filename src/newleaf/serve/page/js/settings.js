// What a person chose, kept in the browser. "change" is dispatched with the name of what changed.

const PLACE = "newleaf.settings";
const KEY = "newleaf.key";
const DEFAULTS = {
  model: "",
  system: "",
  temperature: null, // null: the server's
  top_p: null,
  max_tokens: null,
  seed: null,
  logprobs: true,
  language: "", // "": the browser's
  theme: "auto",
  key: "",
  keep_key: false,
  axis: "steps",
  text: "",
};

export class Settings extends EventTarget {
  constructor() {
    super();
    this.values = { ...DEFAULTS, ...known(read(localStorage, PLACE)), key: "" };
    this.values.key = String(read(this.values.keep_key ? localStorage : sessionStorage, KEY) ?? "");
  }

  get(name) {
    if (!(name in DEFAULTS)) throw new Error(`no setting named ${name}`);
    return this.values[name];
  }

  set(name, value) {
    if (this.get(name) === value) return;
    this.values[name] = value;
    const { key, ...rest } = this.values;
    write(localStorage, PLACE, rest);
    if (name === "key" || name === "keep_key") this.keepKey(key);
    this.dispatchEvent(new CustomEvent("change", { detail: name }));
  }

  /** The key lives with the tab, unless it is to be kept. */
  keepKey(key) {
    write(localStorage, KEY, this.values.keep_key ? key : null);
    write(sessionStorage, KEY, this.values.keep_key ? null : key);
  }

  /** The fields of a request that a person set; those that nobody set are the server's. */
  sampling() {
    const fields = ["temperature", "top_p", "max_tokens", "seed"];
    return Object.fromEntries(fields.map((name) => [name, this.get(name)]).filter(([, value]) => value !== null));
  }
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
