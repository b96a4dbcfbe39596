"""lm-evaluation-harness: scoring and generation through completions with the server's own tokenizer, and
generation through chat."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from say import MODEL, URL, tried

PLACE = Path(tempfile.mkdtemp())
ROWS = [{"question": "The capital of France is", "choices": [" Paris", " Oslo"], "answer": 0}] * 3
(PLACE / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
COMMON = (
    f"dataset_path: json\ndataset_kwargs: "
    f"{{data_files: {{test: {PLACE / 'rows.jsonl'}}}}}\ntest_split: test\n"
)
COMMON += 'doc_to_text: "{{question}}"\n'
CHOICE = (
    "task: capitals\noutput_type: multiple_choice\ndoc_to_target: answer\ndoc_to_choice: "
    "choices\nmetric_list: [{metric: acc}]\n"
)
WRITE = (
    'task: written\noutput_type: generate_until\ndoc_to_target: "{{choices[answer]}}"\nmetric_list: '
    "[{metric: exact_match}]\n"
)
WRITE += "generation_kwargs: {until: ['.'], max_gen_toks: 12}\n"
(PLACE / "capitals.yaml").write_text(COMMON + CHOICE)
(PLACE / "written.yaml").write_text(COMMON + WRITE)


def lm_eval(model, about, task, *words):
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "--model",
        model,
        "--model_args",
        about,
        "--tasks",
        task,
        "--include_path",
        str(PLACE),
    ]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(PLACE / "cache"), "HF_HUB_OFFLINE": "1"}
    out = PLACE / f"out-{model}-{task}"
    done = subprocess.run(
        [*command, "--output_path", str(out), *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-400:]
    (results,) = out.rglob("results*.json")
    return json.loads(results.read_text())["results"][task]


REMOTE = f"model={MODEL},base_url={URL}/completions,tokenizer_backend=remote,tokenized_requests=True"
tried("completions, remote tokenizer: choices", lambda: lm_eval("local-completions", REMOTE, "capitals"))
tried("completions, remote tokenizer: text", lambda: lm_eval("local-completions", REMOTE, "written"))
ABOUT = f"model={MODEL},base_url={URL}/chat/completions"
tried("chat: text", lambda: lm_eval("local-chat-completions", ABOUT, "written", "--apply_chat_template"))
