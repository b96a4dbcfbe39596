// The language that is spoken now: a string by its name, with values filled in.

import { STRINGS } from "./strings.js";

export class Words {
  constructor(settings) {
    this.settings = settings;
  }

  get language() {
    const chosen = this.settings.get("language");
    if (chosen in STRINGS) return chosen;
    return (navigator.languages ?? [navigator.language]).some((name, place) => place === 0 && name?.startsWith("zh")) ? "zh" : "en";
  }

  say(name, values = {}) {
    const text = STRINGS[this.language][name];
    if (text === undefined) throw new Error(`no string named ${name}`);
    return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key]));
  }

  has(name) {
    return name in STRINGS[this.language];
  }

  /** Put the language's strings into elements that name them: data-t (text) and data-label (label and title). */
  dress(root) {
    document.documentElement.lang = this.language === "zh" ? "zh-CN" : "en";
    for (const node of root.querySelectorAll("[data-t]")) node.textContent = this.say(node.dataset.t);
    for (const node of root.querySelectorAll("[data-label]")) node.setAttribute("aria-label", this.say(node.dataset.label));
  }

  get locale() {
    return this.language === "zh" ? "zh-CN" : "en";
  }

  date(time) {
    return new Intl.DateTimeFormat(this.locale, { dateStyle: "medium", timeStyle: "short" }).format(time);
  }

  month(time) {
    return new Intl.DateTimeFormat(this.locale, { year: "numeric", month: "long" }).format(time);
  }

  number(value, digits = 3) {
    return new Intl.NumberFormat(this.locale, { maximumSignificantDigits: digits }).format(value);
  }

  /** As a field takes it. */
  plain(value) {
    return String(Number(Number(value).toPrecision(12)));
  }

  /** 12,345 whole; from a hundred thousand as 123K. */
  count(value) {
    const options = value < 1e5 ? { maximumFractionDigits: 0 } : { notation: "compact", maximumSignificantDigits: 3 };
    return new Intl.NumberFormat("en", options).format(value);
  }

  /** As short as can be: 20K. */
  short(value) {
    return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
  }

  percent(probability) {
    if (probability > 0 && probability < 0.0001) return "< 0.01 %";
    const digits = probability >= 0.1 ? 0 : probability >= 0.01 ? 1 : 2;
    const shown = 100 * probability;
    return `${probability < 1 && shown.toFixed(digits) === "100" ? shown.toFixed(2) : shown.toFixed(digits)} %`;
  }

  duration(seconds) {
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  }
}
