// What a client's script reports: a line of JSON for each thing that was tried.
export const URL_ = process.env.OPENAI_BASE_URL;
export const KEY = process.env.OPENAI_API_KEY;
export const MODEL = process.env.NEWLEAF_MODEL;
export const QUESTION = "What is the capital of France? Answer in one sentence.";
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};

/** Run `work`, which fails by throwing, and report it. */
export async function tried(what, work) {
  try {
    const said = await work();
    console.log(JSON.stringify({ what, ok: true, note: String(said ?? "").slice(0, 200) }));
  } catch (error) {
    console.error(error);
    console.log(JSON.stringify({ what, ok: false, note: `${error.name}: ${error.message}`.slice(0, 400) }));
  }
}
