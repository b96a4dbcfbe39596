// Tokens as the server tells them, made alike: {text, bytes, logprob, top: [{text, bytes, logprob}]}.
//
// `bytes` is kept only where a token is no whole text (part of a character); a control token has neither: its `text` is null and
// `name` says what it is called.

/** From the `logprobs.content` of a chat answer. */
export function chatTokens(entries) {
  return entries.map((entry) => ({ ...one(entry), top: (entry.top_logprobs ?? []).map(one) }));
}

/** From the `logprobs` of a text completion: lists side by side. */
export function textTokens(logprobs) {
  return logprobs.tokens.map((token, place) => {
    const top = Object.entries(logprobs.top_logprobs?.[place] ?? {}).map(([name, logprob]) => named(name, logprob));
    return { ...named(token, logprobs.token_logprobs[place]), top: top.sort((a, b) => b.logprob - a.logprob) };
  });
}

function one({ token, bytes, logprob }) {
  if (!bytes?.length) return { text: null, bytes: null, name: token, logprob };
  const text = whole(bytes);
  return text === null ? { text: null, bytes, logprob } : { text, bytes: null, logprob };
}

const CONTROL = /^(<\|[^>]*\|>|<\/?s>)$/;

/** A token of a completion is a text; part of a character is written "bytes:\xe2\x80". Control tokens stand there by their names, as
 * text does, and are known by the look of those. */
function named(token, logprob) {
  if (CONTROL.test(token)) return { text: null, bytes: null, name: token, logprob };
  if (!/^bytes:(\\x[0-9a-f]{2})+$/i.test(token)) return { text: token, bytes: null, logprob };
  return {
    text: null,
    bytes: token
      .slice(6)
      .match(/[0-9a-f]{2}/gi)
      .map((pair) => Number.parseInt(pair, 16)),
    logprob,
  };
}

/** The text of bytes, or null when they are no whole UTF-8. */
export function whole(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

/** How many bytes a token stands for; none for control tokens. */
export function sizeOf(token) {
  return token.bytes?.length ?? new TextEncoder().encode(token.text ?? "").length;
}

/** The tokens before `place` and then `other`, as a text to go on from; null when that ends within a character or in what is none, or
 * `other` is a control token. Earlier bytes that are no text have become U+FFFD, as in the text that the server sent. */
export function changed(tokens, place, other) {
  if (isControl(other)) return null;
  const encoder = new TextEncoder();
  const bytes = [...tokens.slice(0, place), other].flatMap((token) => token.bytes ?? [...encoder.encode(token.text ?? "")]);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const text = decoder.decode(new Uint8Array(bytes), { stream: true });
  const within = decoder.decode() !== "";
  return !text || within || (other.bytes && text.endsWith("\ufffd")) ? null : text;
}

export function isControl(token) {
  return token.text === null && token.bytes === null;
}

/** How a token is shown: what cannot be seen becomes visible. */
export function shown(token) {
  if (isControl(token)) return token.name;
  if (token.text === null) return `‹${token.bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}›`;
  return visible(token.text);
}

function visible(text) {
  return text
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "␀") // the latter would turn round what stands beside them
    .replace(/^[\p{M}\p{Default_Ignorable_Code_Point}]+$/u, "◌$&"); // an accent or a joiner alone
}

/** Shows tokens one after the other: where several make up one character, the last of them shows it, and the others a dotted circle. */
export class InContext {
  constructor() {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  show(token) {
    if (token.bytes) return visible(this.decoder.decode(new Uint8Array(token.bytes), { stream: true })) || "◌";
    this.decoder.decode(); // what was begun and not ended is over
    return shown(token);
  }
}

/** The same where it stands alone, so that spaces at its edges are seen. */
export function alone(token) {
  return shown(token).replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

/** Five shades of how likely a token was; 4 is likely, 0 a surprise. */
export function shade(logprob) {
  if (logprob === null || logprob === undefined) return 4;
  const probability = Math.exp(logprob);
  return [0.02, 0.1, 0.3, 0.7].filter((limit) => probability >= limit).length;
}

export const sameToken = (a, b) => a.text === b.text && String(a.bytes) === String(b.bytes) && a.name === b.name;
