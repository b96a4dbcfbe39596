// A chat as a file: JSON with every branch and token, or the shown path as Markdown.

import { el } from "./dom.js";
import { path } from "./tree.js";

export function asJson(talk) {
  const messages = [
    ...(talk.system ? [{ role: "system", content: talk.system }] : []),
    ...path(talk).map(({ role, content }) => ({ role, content })),
  ];
  // `messages` is what `newleaf chat` reads with /load; `talk` is everything.
  return JSON.stringify({ messages, talk }, null, 2);
}

export function asMarkdown(talk, words) {
  const parts = [`# ${talk.title || words.say("untitled")}`];
  if (talk.system) parts.push(`> ${talk.system.replaceAll("\n", "\n> ")}`);
  for (const node of path(talk)) parts.push(`**${words.say(node.role === "user" ? "you" : "model")}**`, node.content.trim());
  return `${parts.join("\n\n")}\n`;
}

export function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export function fileName(talk, ending) {
  const words = (talk.title || "chat")
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 50);
  return `${words || "chat"}.${ending}`;
}
