// Vercel's AI SDK: text, streams, objects, and tools over several steps, by its providers for responses, chat and servers like OpenAI's.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { MODEL, QUESTION, KEY, URL_, tried } from "./say.mjs";

const openai = createOpenAI({ baseURL: URL_, apiKey: KEY });
const compatible = createOpenAICompatible({ name: "newleaf", baseURL: URL_, apiKey: KEY, supportsStructuredOutputs: true, includeUsage: true });
const kinds = { responses: openai.responses(MODEL), chat: openai.chat(MODEL), compatible: compatible(MODEL) };
const get_weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.enum(["Paris", "Oslo"]) }),
  execute: async ({ city }) => `It rains in ${city}.`,
});

for (const [name, model] of Object.entries(kinds)) {
  const common = { model, maxRetries: 0, maxOutputTokens: 60 };
  await tried(`${name}: three turns, streamed`, async () => {
    const messages = [{ role: "user", content: QUESTION }];
    for (const next of ["And of Norway?", "And of Spain?"]) {
      const { response } = await generateText({ ...common, messages });
      messages.push(...response.messages, { role: "user", content: next });
    }
    const found = streamText({ ...common, messages, onError: ({ error }) => { throw error; } });
    let text = "";
    for await (const part of found.textStream) text += part;
    if (!text) throw new Error("no text came");
    return `${(await found.usage).totalTokens} tokens`;
  });
  await tried(`${name}: tools over steps`, async () => {
    const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" });
    const options = { ...common, maxOutputTokens: 100, tools: { get_weather }, stopWhen: stepCountIs(2), prepareStep };
    const { steps } = await generateText({ ...options, prompt: "How is the weather in Oslo?" });
    if (!steps[0].toolCalls.length) throw new Error("nothing was called");
    return `${steps.length} steps`;
  });
  await tried(`${name}: object`, async () => {
    const { object } = await generateObject({ ...common, schema: z.object({ city: z.enum(["Paris", "Oslo"]), days: z.number().int().max(9) }), prompt: "Three days in Oslo." });
    return JSON.stringify(object);
  });
}
await tried("embedding", async () => (await embed({ model: openai.embedding(MODEL), value: "a", maxRetries: 0 })).embedding.length);
