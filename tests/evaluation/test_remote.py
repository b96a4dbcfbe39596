"""An OpenAI-compatible address as the model: a small server that answers from a local model, and servers that
do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import newleaf
from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.errors import InputError


class Server:
    """Answers /v1/models and /v1/completions as the protocol has it; `faults` is a list of statuses to answer
    first."""

    def __init__(self, model: Model) -> None:
        self.model, self.faults, self.asked, self.echoes = model, [], [], True  # type: ignore[var-annotated]
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                self.answer({"data": [{"id": "tiny"}, {"id": "other"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append(body | {"key": self.headers.get("Authorization")})
                if owner.faults:
                    return self.answer({"error": {"message": "too busy"}}, owner.faults.pop(0))
                self.answer(owner.complete(body))

            def answer(self, value: Any, status: int = 200) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        with self.lock:
            if not body.get("echo") or not self.echoes:
                stop = body.get("stop", [])
                text = self.model.generate(
                    prompt, max_tokens=body["max_tokens"], temperature=body["temperature"], stop=stop
                )
                return {"choices": [{"index": 0, "text": text}]}
            ids = self.model.tokenizer.encode(prompt)
            with torch.no_grad():
                logprobs = self.model.network(torch.tensor([ids]))[0].log_softmax(-1)
            ids.append(int(logprobs[-1].argmax()))  # the one token that max_tokens asks for
        tokens = [self.model.tokenizer.decode([each]) for each in ids]
        best = [
            None,
            *({self.model.tokenizer.decode([int(row.argmax())]): float(row.max())} for row in logprobs),
        ]
        own = [None, *(float(row[token]) for row, token in zip(logprobs, ids[1:], strict=True))]
        offsets = [len(self.model.tokenizer.decode(ids[:place])) for place in range(len(ids))]
        found = {"tokens": tokens, "token_logprobs": own, "top_logprobs": best, "text_offset": offsets}
        return {"choices": [{"index": 0, "text": "".join(tokens), "logprobs": found}]}


@pytest.fixture
def server(model: Model) -> Iterator[Server]:
    made = Server(model)
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_scores_of_an_address_are_those_of_the_model_behind_it(
    server: Server, model: Model, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-1")
    found = newleaf.evaluate(server.address, ["arc_easy", "lambada"], data_dir, quiet=True)["tasks"]
    own = newleaf.evaluate(model, ["arc_easy", "lambada"], data_dir, quiet=True)["tasks"]
    assert (found["arc_easy"]["acc"], found["arc_easy"]["acc_norm"]) == (
        own["arc_easy"]["acc"],
        own["arc_easy"]["acc_norm"],
    )
    assert found["lambada"]["perplexity"] == pytest.approx(own["lambada"]["perplexity"], rel=1e-3)
    assert server.asked[0]["key"] == "Bearer k-1"
    assert server.asked[0]["model"] == "tiny"


def test_texts_of_an_address_are_cut_at_every_stop(
    server: Server, model: Model, data_dir: Path, tmp_path: Path
) -> None:
    from newleaf.evaluation.evaluated_model import GenerationOptions
    from newleaf.evaluation.remote_model import RemoteSubject

    text = model.generate("parse the", max_tokens=40, temperature=0)
    stops = ("§1", "§2", "§3", "§4", text[5:8])  # the protocol takes four
    ((number, found),) = list(
        RemoteSubject(f"{server.address}/v1#other").write(["parse the"], GenerationOptions(40, stops))
    )
    assert (number, found) == (0, [text.split(text[5:8])[0]])
    assert (server.asked[-1]["stop"], server.asked[-1]["model"]) == (list(stops[:4]), "other")


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(server: Server, data_dir: Path) -> None:
    server.faults = [503]
    assert (
        newleaf.evaluate(server.address, ["sst2"], data_dir, limit=2, quiet=True)["tasks"]["sst2"]["n"] == 2
    )
    server.faults = [400] * 20
    with pytest.raises(InputError, match="/v1/completions: answers 400: too busy"):
        newleaf.evaluate(server.address, ["sst2"], data_dir, limit=2, quiet=True)


def test_a_server_without_echo_and_one_that_does_not_answer_are_named(
    server: Server, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.echoes = False
    with pytest.raises(InputError, match="gives no log-probabilities of the prompt"):
        newleaf.evaluate(server.address, ["sst2"], data_dir, limit=1, quiet=True)
    with pytest.raises(InputError, match="has no model 'missing'; it lists tiny, other"):
        newleaf.evaluate(f"{server.address}#missing", ["sst2"], data_dir, quiet=True)
    (tmp_path / "plain.txt").write_text("some text")
    with pytest.raises(InputError, match="is an address"):
        newleaf.evaluate(server.address, [str(tmp_path / "plain.txt")], quiet=True)
    assert main(["evaluate", "http://127.0.0.1:1", "sst2", "--data-dir", str(data_dir)]) == 2
    assert "http://127.0.0.1:1/v1/models: does not answer" in capsys.readouterr().err
