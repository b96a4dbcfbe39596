// Codex's command line, `codex exec`, over responses: one task that begins and ends, and a second turn of the same session.
import { spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MODEL, URL_, tried } from "./say.mjs";

const home = mkdtempSync(join(tmpdir(), "codex-"));
const place = join(home, "work");
mkdirSync(place);
writeFileSync(
  join(home, "config.toml"),
  `model = ${JSON.stringify(MODEL)}
model_provider = "here"
model_context_window = 16000
[model_providers.here]
name = "here"
base_url = ${JSON.stringify(URL_)}
wire_api = "responses"
env_key = "OPENAI_API_KEY"
request_max_retries = 0
stream_max_retries = 0
`,
);

function codex(...words) {
  const command = join(process.cwd(), "node_modules", ".bin", "codex");
  const options = { cwd: place, env: { ...process.env, CODEX_HOME: home }, encoding: "utf8", timeout: 500_000, input: "" };
  const done = spawnSync(command, ["exec", ...words, "--skip-git-repo-check", "--json"], options);
  const events = done.stdout.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const failed = events.find((event) => event.type === "turn.failed" || event.type === "error");
  if (done.status !== 0 || failed) throw new Error(JSON.stringify(failed ?? done.stderr.slice(-300)));
  const ended = events.find((event) => event.type === "turn.completed");
  if (!ended) throw new Error("the turn did not end");
  return JSON.stringify(ended.usage);
}

await tried("exec: a turn", async () => codex("Say hello."));
await tried("exec resume: the next turn", async () => codex("resume", "--last", "Say it again."));
