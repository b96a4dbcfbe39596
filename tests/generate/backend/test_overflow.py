"""Claims about networks whose numbers overflow: every door says so in one line with the way out, and writes
no noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from chat_folders import make_folder

import newleaf
from newleaf.cli.main import main
from newleaf.errors import NotFiniteError
from newleaf.generate.backend.executor import ModuleExecutor
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer

SAID = "open it with --weights bf16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock Llama in fp16 whose feed-forward products are beyond 65,504, and within the range of bf16."""
    path = make_folder(tmp_path_factory.mktemp("half") / "model", "llama3")
    tokenizer = Tokenizer.load(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=None,
        eos_token_id=None, pad_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight *= 30
            layer.mlp.down_proj.weight *= 3000
    model.half().save_pretrained(path)
    reread = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float16)
    with torch.no_grad():
        # stock transformers overflows as well
        assert not bool(reread(torch.tensor([[1, 2, 3]])).logits.isfinite().all())
    return path


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0}, {"temperature": 1, "seed": 1}, {"beams": 2}, {"n": 3, "seed": 1}, {"logprobs": 2}],
)
def test_writing_says_what_happened_and_what_to_do(folder: Path, options: dict[str, int]) -> None:
    model = newleaf.load(folder)
    with pytest.raises(NotFiniteError, match=SAID):
        model.complete("What is", max_tokens=5, **options)
    with pytest.raises(NotFiniteError, match=SAID):
        model.complete("What is", max_tokens=1, prompt_logprobs=1)


def test_the_command_says_it_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["generate", str(folder), "What is"], ["evaluate", str(folder), str(_text(tmp_path))]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert SAID in error
        assert error.count("\n") == 1
    assert main(["generate", str(folder), "What is", "--weights", "bf16", "--max-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"][0]["end"]


def test_a_text_that_overflows_ends_alone(folder: Path) -> None:
    """The engine goes on serving the others."""
    model = newleaf.load(folder, weights="fp32")
    head = model.network.head

    def spoil(_: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return (
            torch.where(logits.argmax(-1, keepdim=True) == bad, torch.full_like(logits, float("nan")), logits)
            if bad >= 0
            else logits
        )

    bad = -1
    with Engine(model.network, model.tokenizer, executor=ModuleExecutor(model.network, 2)) as engine:
        handle = head.register_forward_hook(spoil)
        good = engine.submit("The capital", SamplingConfig(max_tokens=4, temperature=0))
        assert len(list(good)) > 0
        bad = int(model.network(torch.tensor([model.tokenizer.encode("What is")]))[0, -1].argmax())
        with pytest.raises(NotFiniteError):
            list(engine.submit("What is", SamplingConfig(max_tokens=4, temperature=0)))
        bad = -1
        assert list(engine.submit("What is", SamplingConfig(max_tokens=4, temperature=0)))
        handle.remove()


def _text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The capital of France is Paris. " * 8, "utf-8")
    return path
