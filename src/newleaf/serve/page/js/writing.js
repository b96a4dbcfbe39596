// One answer being written: the request that asks for it, and what has come of it, added to its message as it comes.

import { chatTokens, textTokens } from "./tokens.js";

const ALTERNATIVES = 8;
const TEXT_TOKENS = 160;

/** The request for an answer to these messages; when `node` has text already it is gone on with. */
export function chatRequest(settings, talk, before, node, versions) {
  const messages = talk.system ? [{ role: "system", content: talk.system }] : [];
  messages.push(...before.map(({ role, content }) => ({ role, content })));
  const goesOn = node.content !== "";
  if (goesOn) messages.push({ role: "assistant", content: node.content, ...(node.reasoning ? { reasoning_content: node.reasoning } : {}) });
  return {
    model: settings.get("model") || undefined,
    messages,
    ...seeded(settings.sampling(), versions),
    ...(goesOn ? { continue_final_message: true } : {}),
    ...(settings.get("logprobs") ? { logprobs: true, top_logprobs: ALTERNATIVES } : {}),
    stream_options: { include_usage: true },
  };
}

/** The request for what follows a text. `context` is the model's, where it is known. */
export function textRequest(settings, prompt, versions, context) {
  return {
    model: settings.get("model") || undefined,
    prompt,
    max_tokens: Math.min(TEXT_TOKENS, Math.floor((context ?? Infinity) / 2)), // where nobody says; the API's own 16 are few to read
    ...seeded(settings.sampling(), versions),
    ...(settings.get("logprobs") ? { logprobs: ALTERNATIVES } : {}),
    stream_options: { include_usage: true },
  };
}

/** How likely a text itself is. A server writes at least one token; it is left out. */
export function scoreRequest(settings, prompt) {
  return { model: settings.get("model") || undefined, prompt, echo: true, logprobs: ALTERNATIVES, max_tokens: 1, temperature: 0 };
}

/** With a seed, another answer to the same question draws other numbers, and the same ones when all is done again. */
function seeded(sampling, versions) {
  return sampling.seed === undefined ? sampling : { ...sampling, seed: sampling.seed + versions };
}

/** Take the chunks of a chat answer into its message; `changed` is called after each. */
export async function takeChat(chunks, node, changed) {
  await take(chunks, node, changed, ({ delta = {}, logprobs }) => {
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    const tokens = chatTokens(logprobs?.content ?? []);
    if (thought) node.reasoning = (node.reasoning ?? "") + thought;
    if (delta.content) node.content += delta.content;
    // Tokens of a thought come with the thought; those that belong to neither (a mark between them) with what follows.
    if (tokens.length && thought && !delta.content) node.thoughtTokens = [...(node.thoughtTokens ?? []), ...tokens];
    else if (tokens.length) node.tokens = [...(node.tokens ?? []), ...tokens];
  });
}

/** The same for a text completion. */
export async function takeText(chunks, node, changed) {
  await take(chunks, node, changed, ({ text, logprobs }) => {
    node.content += text ?? "";
    if (logprobs?.tokens) node.tokens = [...(node.tokens ?? []), ...textTokens(logprobs)];
  });
}

async function take(chunks, node, changed, add) {
  const begun = performance.now();
  let first = null;
  for await (const chunk of chunks) {
    node.model = chunk.model ?? node.model;
    const choice = chunk.choices?.[0];
    if (choice) {
      first ??= performance.now();
      add(choice);
      node.end = choice.finish_reason ?? node.end;
    }
    if (chunk.usage) {
      node.usage = { tokens: chunk.usage.completion_tokens, seconds: (performance.now() - (first ?? begun)) / 1000 };
    }
    changed();
  }
}
