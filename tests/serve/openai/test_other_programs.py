"""Programs that know OpenAI's interface and were not made for this server: the llm command line,
lm-evaluation-harness, schemathesis."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from server_process import Running

import newleaf

TASK = """
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{{metric: acc}}]
"""
ROWS = [
    {"question": "What is the capital of", "choices": [" France", " Paris", " final"], "answer": 0},
    {"question": "The capital of France is", "choices": [" Paris", " 2 < 3", " user"], "answer": 0},
    {"question": "analysis final commentary", "choices": [" message", " the", " What is"], "answer": 0},
]


def test_the_llm_command_line_talks_with_the_server(server: Running, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    models = [
        {
            "model_id": "tiny",
            "model_name": "endless",
            "api_base": f"{server.url}/v1",
            "supports_tools": True,
            "supports_schema": True,
        }
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}

    def llm(*words: str) -> str:
        command = [sys.executable, "-m", "llm", *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    options = ("-m", "tiny", "-o", "max_tokens", "12", "-o", "temperature", "0")
    expected = server.post(
        "/v1/chat/completions",
        model="endless",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=12,
        temperature=0,
    )
    answer = expected.json()["choices"][0]["message"]["content"]
    assert llm("Hi", *options) == answer.strip()
    assert llm("Hi", *options, "--no-stream") == answer.strip()
    # llm's schemas allow other fields too; with this seed the model is soon done.
    schema = llm("Hi", "-m", "tiny", "--schema", "far bool", "-o", "max_tokens", "300", "-o", "seed", "1")
    assert isinstance(json.loads(schema)["far"], bool)


def test_lm_eval_scores_a_model_through_the_server_as_the_network_does(
    server: Running, models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "words.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    about = (
        f"model=endless,base_url={server.url}/v1/completions,"
        f"tokenizer={models / 'endless'},tokenizer_backend=huggingface"
    )
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "--model",
        "local-completions",
        "--model_args",
        f"{about},num_concurrent=2,max_length=512",
    ]
    command += [
        "--tasks",
        "words",
        "--include_path",
        str(tmp_path),
        "--output_path",
        str(tmp_path / "out"),
        "--log_samples",
    ]
    environment = {
        **os.environ,
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": "none",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_words_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(found) == len(ROWS)
    model = newleaf.load(models / "endless")
    for sample in found:
        for asked, ((logprob, greedy),) in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context = model.tokenizer.encode(asked["arg_0"])
            whole = model.tokenizer.encode(asked["arg_0"] + asked["arg_1"])
            with torch.no_grad():
                rows = model.network(torch.tensor([whole]))[0].log_softmax(-1)
            places = range(len(context) - 1, len(whole) - 1)
            assert float(logprob) == pytest.approx(
                sum(float(rows[at, whole[at + 1]]) for at in places), abs=1e-3
            )
            assert str(greedy) == str(all(int(rows[at].argmax()) == whole[at + 1] for at in places))


def test_schemathesis_finds_no_5xx(server: Running) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis.errors import Unsatisfiable

    document: Any = httpx.get(f"{server.url}/openapi.json").json()
    for name in ("ChatRequest", "CompletionRequest"):  # tokens are what takes time here
        document["components"]["schemas"][name]["properties"]["max_tokens"] = {
            "type": "integer",
            "maximum": 8,
        }
    schema = schemathesis.openapi.from_dict(document)
    seen: set[int] = set()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=12,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                verbosity=Verbosity.quiet,
                suppress_health_check=list(HealthCheck),
            )
            def send(case: Any) -> None:
                got = case.call(base_url=server.url, timeout=60)
                seen.add(got.status_code)
                assert got.status_code < 500, (case.as_curl_command(), got.text)

            with contextlib.suppress(Unsatisfiable):  # a route without parameters cannot be asked wrongly
                send()
    assert 200 in seen
    assert seen & {400, 404}
    assert '"event": "error"' not in server.log
