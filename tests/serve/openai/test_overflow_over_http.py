"""A model in fp16 that overflows, behind the server: an error of the request that names the way out, and no
NaN in any body."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chat_folders import make_chat_model
from safetensors.torch import load_file, save_file
from server_process import Start

SAID = "open it with --weights bf16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model whose head is beyond what fp16 can add up."""
    path = make_chat_model(tmp_path_factory.mktemp("models") / "half")
    weights = {name: tensor.half() for name, tensor in load_file(path / "model.safetensors").items()}
    weights = {
        name: torch.full_like(tensor, 6e4) if "norm" in name else tensor for name, tensor in weights.items()
    }
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_every_route_says_that_the_model_overflows(folder: Path, start: Start) -> None:
    server = start(folder)
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    for path, body in (
        ("/v1/chat/completions", chat | {"temperature": 0}),
        ("/v1/chat/completions", chat | {"temperature": 1, "logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", {"prompt": "What", "max_tokens": 5}),
        ("/v1/completions", {"prompt": "What is", "max_tokens": 1, "echo": True, "logprobs": 1}),
        ("/v1/embeddings", {"input": "What is"}),
        ("/v1/responses", {"input": "What is"}),
    ):
        found = server.post(path, model="half", **body)
        assert found.status_code == 500, (path, found.text)
        assert found.json()["error"]["code"] == "model_overflow"
        assert SAID in found.json()["error"]["message"]
        streamed = (
            server.post(path, model="half", **body, stream=True).text if path != "/v1/embeddings" else ""
        )
        assert "NaN" not in streamed
        assert "embeddings" in path or SAID in streamed
    events = list(server.client().responses.create(model="half", input="What is", stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    error, failed = events[-2].to_dict(), events[-1].response
    assert (error["code"], error["param"], SAID in error["message"]) == ("model_overflow", None, True)
    assert (failed.status, failed.error.code, SAID in failed.error.message) == (
        "failed",
        "server_error",
        True,
    )
    assert server.post("/tokenize", model="half", prompt="What").status_code == 200
