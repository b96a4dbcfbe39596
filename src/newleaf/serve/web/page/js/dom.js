// Building the document, node by node. Text is only ever text here: nothing parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: `class`, `text`, `on` ({event: listener}), DOM properties in `is`, everything else attributes; null is left out. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** A button with words, or with an icon and a label. */
export function button(label, onClick, { icon = null, kind = "quiet", ...props } = {}) {
  const named = icon ? { "aria-label": label, title: label } : {};
  return el("button", { type: "button", class: icon ? `icon ${kind}` : kind, ...named, on: { click: onClick }, ...props }, icon ?? label);
}

function fill(node, { class: name, text, on = {}, is = {}, ...attributes }, children) {
  if (name) node.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  if (text !== undefined) node.textContent = text;
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  Object.assign(node, is);
  return node;
}
