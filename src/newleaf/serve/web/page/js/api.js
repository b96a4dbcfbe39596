// The server's HTTP interface: models, chat and text completions as streams, training runs.

import { events } from "./sse.js";

/** What went wrong: `kind` is "network", "key", "broken" (the stream ended early) or "refused", and `message` the server's words. */
export class ApiError extends Error {
  constructor(kind, message, code = null) {
    super(message);
    this.kind = kind;
    this.code = code;
  }
}

export class Api {
  constructor(settings) {
    this.settings = settings;
  }

  async models() {
    return (await this.get("v1/models")).data;
  }

  runs() {
    return this.get("runs");
  }

  history(run, after) {
    return this.get(`runs/history?${new URLSearchParams({ run, after })}`);
  }

  chat(body, signal) {
    return this.stream("v1/chat/completions", body, signal);
  }

  complete(body, signal) {
    return this.stream("v1/completions", body, signal);
  }

  /** One answer that is not streamed. */
  async post(path, body, signal) {
    return (await this.ask(path, { method: "POST", body: JSON.stringify(body), signal })).json();
  }

  async get(path) {
    return (await this.ask(path, {})).json();
  }

  async *stream(path, body, signal) {
    const response = await this.ask(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
    const source = events(response.body);
    for (;;) {
      const { done, value } = await reading(source.next(), signal);
      if (done && !value) throw new ApiError("broken", "");
      if (done) return;
      if (value.error) throw new ApiError("refused", value.error.message ?? String(value.error), value.error.code);
      yield value;
    }
  }

  async ask(path, options) {
    const key = this.settings.get("key");
    const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("network", String(error.message));
    }
    if (response.ok) return response;
    const said = await response.json().catch(() => ({}));
    const message = said.error?.message ?? said.detail ?? `${response.status} ${response.statusText}`;
    throw new ApiError(response.status === 401 ? "key" : "refused", String(message), said.error?.code ?? null);
  }
}

/** A connection that breaks in the middle is no program's error. */
async function reading(next, signal) {
  try {
    return await next;
  } catch (error) {
    if (signal?.aborted) throw new DOMException("stopped", "AbortError");
    throw new ApiError("broken", String(error.message));
  }
}
