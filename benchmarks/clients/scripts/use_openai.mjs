// The openai package for Node: chat, streams, tools run by its helper, schemas by zod-like objects, and responses.
import OpenAI from "openai";
import { MODEL, QUESTION, WEATHER, KEY, URL_, tried } from "./say.mjs";

const client = new OpenAI({ baseURL: URL_, apiKey: KEY, maxRetries: 0 });
const tool = { type: "function", function: { name: "get_weather", description: "The weather.", parameters: WEATHER, strict: true } };

await tried("chat of two turns", async () => {
  const messages = [{ role: "user", content: QUESTION }];
  const first = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 40 });
  messages.push(first.choices[0].message, { role: "user", content: "And of Norway?" });
  const second = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 40 });
  return second.choices[0].message.content;
});
await tried("stream", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages: [{ role: "user", content: QUESTION }], max_tokens: 40 });
  return await stream.finalContent();
});
await tried("tools run by its helper", async () => {
  const called = [];
  const run = client.chat.completions.runTools({
    model: MODEL,
    max_tokens: 60,
    messages: [{ role: "user", content: "How is the weather in Oslo?" }],
    tool_choice: { type: "function", function: { name: "get_weather" } },
    tools: [{ type: "function", function: { ...tool.function, parse: JSON.parse, function: ({ city }) => (called.push(city), "Rain.") } }],
  });
  await run.done();
  if (!called.length) throw new Error("nothing was called");
  return called;
});
await tried("responses of two turns, streamed", async () => {
  const first = await client.responses.create({ model: MODEL, input: QUESTION, max_output_tokens: 40 });
  const stream = client.responses.stream({ model: MODEL, input: "And of Norway?", previous_response_id: first.id, max_output_tokens: 40 });
  let events = 0;
  for await (const _ of stream) events += 1;
  return `${events} events, ${(await stream.finalResponse()).status}`;
});
await tried("responses: tools and their results", async () => {
  const input = [{ role: "user", content: "How is the weather in Oslo?" }];
  const tools = [{ type: "function", ...tool.function }];
  const asked = await client.responses.create({ model: MODEL, input, tools, tool_choice: "required" });
  const calls = asked.output.filter((item) => item.type === "function_call");
  input.push(...asked.output, ...calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: "Rain." })));
  return (await client.responses.create({ model: MODEL, input, tools, max_output_tokens: 40 })).status;
});
await tried("embeddings", async () => (await client.embeddings.create({ model: MODEL, input: "a" })).data[0].embedding.length);
