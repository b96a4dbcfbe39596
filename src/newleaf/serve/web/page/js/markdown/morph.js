// From the nodes that are shown to those that should be, changing as little as can be: a selection and a scrolled table stay.

import { codeText, paintCode, setCode } from "./code.js";

/** Make `old`, which is shown, like `fresh`; the node that is shown then. `ended` where no more text comes. */
export function morph(old, fresh, ended) {
  if (old.nodeType === Node.TEXT_NODE && fresh.nodeType === Node.TEXT_NODE) {
    grow(old, fresh.data);
    return old;
  }
  if (!alike(old, fresh)) {
    old.replaceWith(fresh);
    paintCode(fresh, ended);
    return fresh;
  }
  if (old.matches("pre code")) setCode(old, codeText(fresh), ended);
  else children(old, fresh, ended);
  return old;
}

/** Put a new node behind the others. */
export function append(parent, node, ended) {
  parent.append(node);
  paintCode(node, ended);
}

function grow(old, text) {
  if (old.data === text) return;
  if (text.startsWith(old.data)) old.appendData(text.slice(old.data.length));
  else old.data = text;
}

/** Whether only what they contain may differ. */
function alike(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE || fresh.nodeType !== Node.ELEMENT_NODE || old.tagName !== fresh.tagName) return false;
  const names = fresh.getAttributeNames();
  return old.getAttributeNames().length === names.length && names.every((name) => old.getAttribute(name) === fresh.getAttribute(name));
}

function children(old, fresh, ended) {
  if (old.dataset.tex !== undefined) return; // the same formula, typeset
  if (old.classList.contains("code-head")) {
    morph(old.firstChild, fresh.firstChild, ended); // the language; the buttons are the same
    return;
  }
  const now = [...old.childNodes];
  const next = [...fresh.childNodes];
  next.forEach((node, place) => (now[place] ? morph(now[place], node, ended) : append(old, node, ended)));
  for (const node of now.slice(next.length)) node.remove();
}
