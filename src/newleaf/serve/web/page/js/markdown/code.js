// A block of code, with its language, its buttons, and colours by highlight.js, which is fetched when the first code comes.

import { el } from "../dom.js";

const LONGEST = 60_000; // characters that are coloured
const GROWTH = 1.3; // code that is being written is coloured anew when it has grown by so much: the whole work stays linear
const LANGUAGES = new Set(
  ("bash c cpp csharp css diff dockerfile go haskell ini java javascript json julia kotlin latex lua makefile markdown perl php " +
    "powershell python r ruby rust scala shell sql swift typescript xml yaml").split(" "),
);
const OTHER_NAMES = {
  "c++": "cpp", cc: "cpp", h: "c", hpp: "cpp", cs: "csharp", "c#": "csharp", console: "shell", docker: "dockerfile", golang: "go",
  hs: "haskell", html: "xml", htm: "xml", svg: "xml", vue: "xml", js: "javascript", jsx: "javascript", mjs: "javascript", jl: "julia",
  jsonl: "json", jsonc: "json", json5: "json", kt: "kotlin", make: "makefile", md: "markdown", patch: "diff", pl: "perl",
  ps1: "powershell", py: "python", python3: "python", pycon: "python", rb: "ruby", rs: "rust", sh: "bash", zsh: "bash", tex: "latex",
  toml: "ini", ts: "typescript", tsx: "typescript", yml: "yaml",
}; // prettier-ignore
const WITHIN = { xml: ["javascript", "css"], markdown: ["xml"] }; // languages that stand in others

let highlighter = null;
const fetched = new Map(); // language → a promise of whether it is there
const painted = new WeakMap(); // code element → {text, language, upTo: characters that were coloured}

/** `tools.codeTools(read)` makes its buttons. */
export function codeBlock(text, language, tools) {
  const read = () => codeText(block.querySelector("pre code"));
  const code = el("code", { class: language ? `language-${language}` : null, "data-language": language || null });
  const head = el("div", { class: "code-head" }, el("span", { text: language }), tools.codeTools(read));
  const block = el("div", { class: "code", dir: "ltr" }, head, el("pre", { tabindex: 0 }, code));
  code.textContent = text;
  painted.set(code, { text, language: known(language), upTo: 0 });
  return block;
}

/** Colour the code in new nodes; `ended` where no more comes. */
export function paintCode(node, ended) {
  if (node.nodeType !== Node.ELEMENT_NODE && node.nodeType !== Node.DOCUMENT_FRAGMENT_NODE) return;
  for (const code of [...(node.matches?.("pre code") ? [node] : []), ...node.querySelectorAll("pre code")]) setCode(code, codeText(code), ended);
}

/** Change what stands in a code element; `ended` where no more comes. */
export function setCode(code, text, ended) {
  const state = painted.get(code);
  const grows = text.startsWith(state.text);
  const waits = grows && !ended && text.length < state.upTo * GROWTH + 200;
  if (text === state.text && (waits || state.upTo === text.length)) return;
  if (waits) code.append(text.slice(state.text.length));
  else code.replaceChildren(...colours(text, state.language));
  state.text = text;
  if (!waits) state.upTo = text.length;
  if (state.language && !highlighter?.getLanguage(state.language)) fetchLanguage(state.language).then((there) => there && recolour(code));
}

/** The text that a code element shows. */
export const codeText = (code) => painted.get(code).text;

function recolour(code) {
  const { text, language } = painted.get(code);
  code.replaceChildren(...colours(text, language));
  painted.get(code).upTo = text.length;
}

function known(language) {
  const name = language.toLowerCase();
  return LANGUAGES.has(name) ? name : (OTHER_NAMES[name] ?? null);
}

function colours(text, language) {
  if (!language || !highlighter?.getLanguage(language) || text.length > LONGEST) return [text];
  // The tree that its HTML would be made of: no markup is parsed here.
  return highlighter.highlight(text, { language, ignoreIllegals: true })._emitter.root.children.map(coloured);
}

function coloured(part) {
  if (typeof part === "string") return document.createTextNode(part);
  const scope = part.scope ?? "";
  return el("span", { class: scope && !scope.startsWith("language:") ? `c-${scope.split(".")[0]}` : null }, part.children.map(coloured));
}

function fetchLanguage(name) {
  if (!fetched.has(name)) {
    fetched.set(
      name,
      register(name).catch(() => {
        fetched.delete(name); // the server is away: it is asked again by the next block
        return false;
      }),
    );
  }
  return fetched.get(name);
}

async function register(name) {
  const [core, grammar] = await Promise.all([
    import("../../vendor/highlight/core.js"),
    import(`../../vendor/highlight/${name}.js`),
    ...(WITHIN[name] ?? []).map(fetchLanguage),
  ]);
  highlighter = core.default;
  highlighter.registerLanguage(name, grammar.default);
  return true;
}
