// One answer being written: the request that asks for it, and what has come of it, added to its message as it comes.

import { chatTokens, textTokens } from "./tokens.js";

const ALTERNATIVES = 8;
const TEXT_TOKENS = 160; // where nobody says; the API's own 16 are few to read

/** The request for an answer to these messages; when `node` has text already it is gone on with. `model` is what is known of the model. */
export function chatRequest(settings, model, talk, before, node, versions) {
  const messages = talk.system ? [{ role: "system", content: talk.system }] : [];
  messages.push(...before.map(({ role, content }) => ({ role, content })));
  const goesOn = node.content !== "";
  if (goesOn) messages.push({ role: "assistant", content: node.content, ...(node.reasoning ? { reasoning_content: node.reasoning } : {}) });
  return {
    model: model?.id,
    messages,
    ...limited(seeded(settings.sampling(model?.chat_sampling), versions), model),
    ...(goesOn ? { continue_final_message: true } : {}),
    ...(settings.get("logprobs") ? { logprobs: true, top_logprobs: ALTERNATIVES } : {}),
    stream_options: { include_usage: true },
    return_progress: true,
  };
}

/** The request for what follows a text of `tokens` ids: no more than the context holds, of which at most half is for what is written. Of a
 * text that leaves less, the beginning is left out; `left` says how many tokens. */
export function textRequest(settings, model, prompt, tokens, versions) {
  const sampling = limited(seeded(settings.sampling(model?.chat_sampling), versions), model);
  const wanted = sampling.max_tokens ?? TEXT_TOKENS;
  const context = model?.context_length ?? Infinity;
  const most = Math.max(1, Math.min(wanted, Math.max(context - tokens.length, Math.floor(context / 2))));
  const left = Math.max(0, tokens.length + most - context);
  const body = {
    model: model?.id,
    prompt: left ? tokens.slice(left) : prompt,
    ...sampling,
    max_tokens: most,
    ...(settings.get("logprobs") ? { logprobs: ALTERNATIVES } : {}),
    stream_options: { include_usage: true },
  };
  return { body, left };
}

/** No more tokens than the server writes for one text. */
function limited(sampling, model) {
  if (sampling.max_tokens === undefined || !model?.max_output_tokens) return sampling;
  return { ...sampling, max_tokens: Math.min(sampling.max_tokens, model.max_output_tokens) };
}

/** How likely a text itself is. A server writes at least one token; it is left out. */
export function scoreRequest(model, prompt) {
  return { model: model?.id, prompt, echo: true, logprobs: ALTERNATIVES, max_tokens: 1, temperature: 0 };
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
    if (chunk.prompt_progress) node.reading = chunk.prompt_progress;
    const choice = chunk.choices?.[0];
    if (choice && !chunk.prompt_progress) {
      if (first === null && hasText(choice)) delete node.reading;
      first ??= hasText(choice) ? performance.now() : null;
      add(choice);
      node.end = choice.finish_reason ?? node.end;
    }
    if (chunk.usage) {
      const { prompt_tokens: prompt, completion_tokens: tokens } = chunk.usage;
      node.usage = { prompt, tokens, seconds: (performance.now() - (first ?? begun)) / 1000 };
    }
    changed();
  }
}

/** Whether a choice brings something of its text, and not only its role. */
const hasText = ({ delta, text }) => Boolean(text ?? (delta?.content || delta?.reasoning_content || delta?.reasoning));
