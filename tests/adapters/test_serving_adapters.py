"""Adapters at work: lowered, several over one base in one batch, each text as if its adapter were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import newleaf
from newleaf.adapters.adapter import attach, share
from newleaf.adapters.init_adapter import new_adapter
from newleaf.adapters.lora_config import AdapterConfig
from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.families.llama import llama
from newleaf.generate.backend import lazy_lowering
from newleaf.generate.backend.executor import LoweredExecutor, ModuleExecutor
from newleaf.generate.backend.lowered_program import CannotLower
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig
from newleaf.storage.adapter_folder import rules_of, save_adapter
from newleaf.storage.build_network import PRECISIONS, empty_network, load_weights
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

PROSE = Path(__file__).read_text("utf-8")
SHAPES: dict[str, GPTConfig] = {
    "llama": llama(2, 4, 2, 48, 96, vocab_size=300, context_length=64),
    "gpt2": GPTConfig(300, 64, 2, 4, 32),
    "gpt1": GPTConfig(300, 64, 2, 4, 32, block="post_norm", final_norm=False),
    "gptj": GPTConfig(
        300, 64, 2, 2, 32, block="parallel", shared_norm=True, positions="rotary", rotary_interleaved=True,
        rotary_dim=8,
        attention_bias=False, attention_out_bias=False, tie_embeddings=False, head_bias=True,
    ),
}  # fmt: skip
# Ranks that fill no register and more than one, DoRA beside plain, layers that only one of them changes.
FIRST = AdapterConfig(rank=5, targets=("all",))
SECOND = AdapterConfig(rank=20, dora=True, rslora=True, targets=("feedforward.*", "attention.out"))


def base(family: str, weights: str | None = None) -> GPT:
    torch.manual_seed(0)
    network = GPT(SHAPES[family]).eval()
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return (
        load_weights(empty_network(network.config), network.state_dict().items(), PRECISIONS[weights])
        if weights
        else network
    )


def adapted(network: GPT, family: str, config: AdapterConfig, seed: int) -> GPT:
    torch.manual_seed(seed)
    found = share(network)
    attach(found, new_adapter(network, config, rules_of(network.config, family)))
    for weight in found.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    return found.eval()


def wanted(network: GPT, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(ids[None])[0]
    return logits


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("family", sorted(SHAPES))
def test_rows_of_one_step_each_have_their_own_adapters_logits(family: str, weights: str | None) -> None:
    plain = base(family, weights)
    networks = plain, adapted(plain, family, FIRST, 1), adapted(plain, family, SECOND, 2)
    lowered = LoweredRunner(plain, 3, threads=2, adapted=networks[1:])
    ids = torch.randint(0, 300, (3, 20))
    for slot in range(3):
        lowered.set_adapter(slot, slot)
    found = torch.stack(
        [lowered.step(ids[:, t].tolist(), [t] * 3, [0, 1, 2]).clone() for t in range(20)], dim=1
    )
    for number, network in enumerate(networks):
        truth = wanted(network, ids[number])
        # The kernels round what a packed matrix reads to bytes, with or without adapters.
        torch.testing.assert_close(
            found[number], truth, rtol=0, atol=(4e-2 if weights else 3e-6) * float(truth.abs().max())
        )
    assert not torch.allclose(wanted(networks[1], ids[0]), wanted(plain, ids[0]), atol=0.05)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapted_network_is_lowered_by_itself_and_reads_prompts_alike(family: str) -> None:
    network = adapted(base(family), family, SECOND, 3)
    ids = torch.randint(0, 300, (40,))
    lowered = LoweredRunner(network, 1, threads=1)
    truth = wanted(network, ids)[-1]
    torch.testing.assert_close(
        lowered.read(0, ids.tolist()), truth, rtol=0, atol=3e-6 * float(truth.abs().max())
    )


def test_networks_over_one_base_share_its_memory() -> None:
    plain = base("llama")
    one, two = adapted(plain, "llama", FIRST, 1), adapted(plain, "llama", SECOND, 2)
    weights = {weight.data_ptr() for weight in plain.parameters()}
    for network in (one, two):
        assert weights <= {weight.data_ptr() for weight in network.parameters()}
    assert all(type(module).__name__ != "AdaptedLinear" for module in plain.modules())


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Model, dict[str, Path]]:
    """A model and two adapters for it on disk."""
    tokenizer = train_tokenizer([PROSE], TokenizerConfig(), 300)
    model = Model(base("llama"), tokenizer, "llama")
    model.save(tmp_path / "base")
    paths = {}
    for name, config in (("one", FIRST), ("two", SECOND)):
        found = new_adapter(
            model.network, config, rules_of(model.network.config, "llama"), str(tmp_path / "base")
        )
        for part in found.parts.values():
            part.b.normal_(0, 0.2)
        save_adapter(tmp_path / name, found, model.network.config, "llama")
        paths[name] = tmp_path / name
    return newleaf.load(tmp_path / "base"), paths


def cannot(*_: Any, **__: Any) -> LoweredRunner:
    raise CannotLower("it is to be tried")


@pytest.mark.parametrize("kind", [LoweredExecutor, ModuleExecutor])
def test_requests_with_different_adapters_are_written_together_as_if_alone(
    kind: type, opened: tuple[Model, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is ModuleExecutor:
        monkeypatch.setattr(lazy_lowering, "LoweredRunner", cannot)
    model, paths = opened
    # a shared beginning, longer than a page of the cache
    config, prompt = SamplingConfig(max_tokens=20, temperature=0), PROSE[:60]
    alone = {
        name: newleaf.load(path).generate(prompt, max_tokens=20, temperature=0)
        for name, path in paths.items()
    }
    alone["none"] = model.generate(prompt, max_tokens=20, temperature=0)
    assert len(set(alone.values())) == 3
    with model.engine(slots=6, adapters=paths) as engine:
        assert isinstance(engine.executor, kind)
        names: list[Any] = ["one", "none", "two", "one", "two", "none"]
        requests = [engine.submit(prompt, config, adapter=name if name != "none" else None) for name in names]
        texts = ["".join(piece.text for piece in request) for request in requests]
        assert texts == [alone[name] for name in names]
        # pages that others left are not taken
        again = "".join(piece.text for piece in engine.submit(prompt, config, adapter="two"))
        assert again == alone["two"]


def test_an_adapter_that_is_not_open_is_refused_by_name(opened: tuple[Model, dict[str, Path]]) -> None:
    model, paths = opened
    with (
        model.engine(adapters=paths) as engine,
        pytest.raises(InputError, match="'three' is not open here; this engine has one, two"),
    ):
        engine.submit("x", SamplingConfig(), adapter="three")
