// A formula: LaTeX as MathML, by Temml, which is fetched when the first formula comes.

import { el } from "../dom.js";

const LONGEST = 5000; // characters that are typeset; longer ones stay as they were written
let temml = null;
let loading = null;

/** An element with the formula; it shows the LaTeX until it is typeset, and where it is none. */
export function mathNode(tex, display) {
  const node = el(display ? "div" : "span", { class: display ? "math display" : "math", dir: "ltr", "data-tex": tex });
  if (display) node.tabIndex = 0;
  node.append(el("code", { text: tex }));
  if (tex.length > LONGEST) return node;
  if (temml) typeset(node, tex, display);
  else loaded().then((ready) => ready && typeset(node, tex, display));
  return node;
}

function loaded() {
  loading ??= import("../../vendor/temml.js").then(
    (module) => (temml = module.default),
    () => (loading = null), // the server is away: it is asked again by the next formula
  );
  return loading;
}

function typeset(node, tex, display) {
  const place = el("span");
  try {
    temml.render(tex, place, { displayMode: display, throwOnError: true, maxExpand: 500 });
  } catch {
    return; // what cannot be read stays as it was written
  }
  node.replaceChildren(...place.childNodes);
}
