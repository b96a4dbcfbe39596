// openai-agents for JavaScript: a tool, a typed result and a second turn, over responses and over chat completions.
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, setTracingDisabled, tool, user } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { MODEL, QUESTION, KEY, URL_, tried } from "./say.mjs";

setTracingDisabled(true);
const client = new OpenAI({ baseURL: URL_, apiKey: KEY, maxRetries: 0 });
const kinds = { responses: new OpenAIResponsesModel(client, MODEL), chat: new OpenAIChatCompletionsModel(client, MODEL) };
const get_weather = tool({
  name: "get_weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.enum(["Paris", "Oslo"]) }),
  execute: async ({ city }) => `It rains in ${city}.`,
});
const runner = new Runner({ tracingDisabled: true });

for (const [name, model] of Object.entries(kinds)) {
  const agent = (more = {}) => new Agent({ name: "helper", instructions: "Be brief.", model, modelSettings: { maxTokens: 60 }, ...more });
  await tried(`${name}: tool and its result`, async () => {
    const modelSettings = { toolChoice: "required", parallelToolCalls: false, maxTokens: 60 };
    const found = await runner.run(agent({ tools: [get_weather], modelSettings }), "How is the weather in Oslo?");
    if (!found.newItems.some((item) => item.type === "tool_call_output_item")) throw new Error("nothing was called");
    return found.finalOutput;
  });
  await tried(`${name}: typed result`, async () => {
    const outputType = z.object({ city: z.enum(["Paris", "Oslo"]) });
    return JSON.stringify((await runner.run(agent({ outputType }), "Name a city.")).finalOutput);
  });
  await tried(`${name}: two turns, streamed`, async () => {
    const first = await runner.run(agent(), QUESTION);
    const second = await runner.run(agent(), [...first.history, user("And of Norway?")], { stream: true });
    let events = 0;
    for await (const _ of second) events += 1;
    await second.completed;
    return `${events} events`;
  });
}
