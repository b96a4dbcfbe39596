// Compares what the page made of Markdown with the HTML that a specification expects.
//
// The page shows some things in its own way: headings lie two levels below, pictures are links (nothing is fetched), markup is shown as
// text or as the same element built anew, code and tables stand in a frame. `plainHtml` undoes exactly these.

const BLOCKS =
  "address|article|blockquote|br|details|div|dl|dt|dd|form|h[1-6]|hr|img|input|iframe|li|ol|p|pre|script|section|style|table|tbody|td|textarea|th|thead|tr|ul|warning|DIV|del|ins";

/** Which of these examples come out as expected, and what came out of the others. */
export function scored(examples, render) {
  return examples.map(({ number, markdown, html }) => {
    const place = document.createElement("div");
    place.append(render(markdown));
    const markup = place.querySelector("[data-markup], b, i, u, s, ins, mark, small, sub, sup, kbd, q, cite") !== null || html.includes("<del>");
    const got = canonical(plainHtml(place));
    const wanted = canonical(html);
    return { number, right: got === wanted, markup, got, wanted };
  });
}

/** Markup without what HTML says twice: attributes in order, white space only where it shows. */
function canonical(html) {
  const text = nodeText(new DOMParser().parseFromString(html.trim(), "text/html").body, false);
  return text
    .replace(new RegExp(`\\s*(</?(?:${BLOCKS})(?: [^>]*)?>)\\s*`, "g"), "$1")
    .trim();
}

function nodeText(parent, pre) {
  return [...parent.childNodes].map((node) => one(node, pre)).join("");
}

function one(node, pre) {
  if (node.nodeType === Node.TEXT_NODE) {
    const text = escaped(node.data);
    return pre ? text.replace(/\n/g, "⏎").replace(/ /g, "␣") : text.replace(/\s+/g, " ");
  }
  if (node.nodeType !== Node.ELEMENT_NODE) return `<!--${node.data}-->`; // a comment, or what a parser takes for one
  const name = node.tagName.toLowerCase();
  const attributes = [...node.attributes]
    .map(({ name: key, value }) => ` ${key}="${escaped(value).replaceAll('"', "&quot;")}"`)
    .sort()
    .join("");
  return `<${name}${attributes}>${nodeText(node, pre || name === "pre" || name === "textarea")}</${name}>`;
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const quoted = (text) => escaped(text).replaceAll('"', "&quot;");

/** The page's nodes as the HTML that the same Markdown means. */
function plainHtml(parent) {
  return [...parent.childNodes].map(plain).join("");
}

function plain(node) {
  if (node.nodeType === Node.TEXT_NODE) return escaped(node.data);
  const name = node.tagName.toLowerCase();
  if (node.dataset.markup !== undefined) return node.textContent; // markup that is shown as text
  if (node.dataset.level) return `<h${node.dataset.level}>${plainHtml(node)}</h${node.dataset.level}>`;
  if (node.classList.contains("picture")) return picture(node);
  if (name === "a") return `<a href="${quoted(address(node))}"${title(node)}>${plainHtml(node)}</a>`;
  if (node.classList.contains("code")) return code(node);
  if (node.classList.contains("table")) return plainHtml(node);
  if (name === "input") return `<input type="checkbox" disabled=""${node.checked ? ' checked=""' : ""}>`;
  if (name === "br" || name === "hr") return `<${name} />`;
  const kept = [
    ["start", node.getAttribute("start")],
    ["align", node.dataset.align],
  ].filter(([, value]) => value !== null && value !== undefined);
  return `<${name}${kept.map(([key, value]) => ` ${key}="${quoted(value)}"`).join("")}>${plainHtml(node)}</${name}>`;
}

const address = (node) => node.getAttribute("href") ?? node.dataset.href;
const title = (node) => (node.dataset.title === undefined ? "" : ` title="${quoted(node.dataset.title)}"`);

function picture(node) {
  return `<img src="${quoted(address(node))}" alt="${quoted(node.dataset.alt)}"${title(node)} />`;
}

function code(node) {
  const found = node.querySelector("pre code");
  const language = found.dataset.language ? ` class="language-${quoted(found.dataset.language)}"` : "";
  const text = found.textContent;
  return `<pre><code${language}>${escaped(text)}${text ? "\n" : ""}</code></pre>`;
}
