"""What a server says of its models and of long prompts while it reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from chat_folders import make_chat_model
from server_process import Running, Start


def chunks(running: Running, **body: Any) -> list[dict[str, Any]]:
    """The events of a streamed chat, but for [DONE]."""
    text = httpx.post(f"{running.url}/v1/chat/completions", json={"stream": True, **body}, timeout=120).text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_a_stream_says_how_much_of_the_prompt_has_been_read(server: Running) -> None:
    asked: dict[str, Any] = {
        "model": "endless",
        "messages": [{"role": "user", "content": "capital " * 2500}],
        "max_tokens": 4,
    }
    found = chunks(server, **asked, return_progress=True, stream_options={"include_usage": True})
    told = [chunk["prompt_progress"] for chunk in found if "prompt_progress" in chunk]
    (usage,) = [chunk["usage"] for chunk in found if chunk["usage"]]
    assert {progress["total"] for progress in told} == {usage["prompt_tokens"]}
    processed = [progress["processed"] for progress in told]
    assert processed == sorted(processed)
    assert len(set(processed)) > 1
    assert 0 < processed[0] < usage["prompt_tokens"]
    assert processed[-1] == usage["prompt_tokens"]
    first_text = next(
        number
        for number, chunk in enumerate(found)
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content")
    )
    assert all("prompt_progress" not in chunk for chunk in found[first_text:])


def test_nobody_hears_of_reading_unasked(server: Running) -> None:
    found = chunks(
        server, model="endless", messages=[{"role": "user", "content": "of France " * 300}], max_tokens=4
    )
    assert all("prompt_progress" not in chunk for chunk in found)


def test_a_model_says_how_it_is_sampled_and_how_much_it_writes(start: Start, tmp_path: Path) -> None:
    plain = make_chat_model(tmp_path / "plain")
    told = make_chat_model(tmp_path / "told")
    (told / "generation_config.json").write_text(
        json.dumps({"temperature": 0.3, "top_k": 7, "repetition_penalty": 1.2}), "utf-8"
    )
    running = start(plain, told, "--max-output", "300")
    first, second = httpx.get(f"{running.url}/v1/models").json()["data"]
    assert (first["chat_sampling"], first["max_output_tokens"]) == ({"temperature": 0.7, "min_p": 0.05}, 300)
    assert "chat_sampling" not in second  # not in memory yet
    running.post("/tokenize", model="told", prompt="")
    assert httpx.get(f"{running.url}/v1/models/told").json()["chat_sampling"] == {
        "temperature": 0.3,
        "top_k": 7,
        "repetition_penalty": 1.2,
    }


def test_generation_config_holds_where_a_request_does_not_say(start: Start, tmp_path: Path) -> None:
    told = make_chat_model(tmp_path / "told")
    (told / "generation_config.json").write_text(
        json.dumps({"temperature": 0.9, "repetition_penalty": 1.9}), "utf-8"
    )
    running = start(told)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "seed": 3, "max_tokens": 30}

    def text(**more: Any) -> str:
        found: str = running.post("/v1/chat/completions", **asked, **more).json()["choices"][0]["message"][
            "content"
        ]
        return found

    assert text() == text(temperature=0.9, repetition_penalty=1.9)
    assert text() != text(repetition_penalty=1.0)
