"""GGUF files that are damaged, that lie, or that hold what newleaf does not know: one line each, in bounded
memory."""

from __future__ import annotations

import random
import struct
import textwrap
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from rewritten_gguf import Metadata, Tensors, rewrite, text
from tiny_sentencepiece import sentencepiece
from tiny_shapes import GPT_OSS, LLAMA, TINY

import newleaf
from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.storage.gguf_file import open_gguf
from newleaf.storage.load_gguf import load_gguf
from newleaf.storage.model_info import model_info
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 270)
    config = GPTConfig(n_layer=1, **TINY, **LLAMA)
    Model(GPT(config), tokenizer, "llama").save(path)
    return path


@pytest.fixture
def change(good: Path, tmp_path: Path) -> Callable[[Callable[[Metadata, Tensors], Any]], Path]:
    return lambda edit: rewrite(good, tmp_path / "changed.gguf", edit)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As good as the good file, with a tokenizer of SentencePiece's."""
    path = tmp_path_factory.mktemp("gguf") / "pieces.gguf"
    tokenizer = sentencepiece([Path(textwrap.__file__).read_text("utf-8")], 400)
    shape: Metadata = {"context_length": 16, "n_layer": 1, "n_head": 1, "n_embd": 32}
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        **shape,
        **LLAMA,
    )
    Model(GPT(config), tokenizer, "llama").save(path)
    return path


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As good as the good file, of gpt-oss's layout."""
    path = tmp_path_factory.mktemp("gguf") / "experts.gguf"
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 270)
    config = GPTConfig(n_layer=2, **TINY, **GPT_OSS)
    Model(GPT(config), tokenizer, "gpt_oss").save(path, type="MXFP4")
    return path


def refused(path: Path) -> str:
    """The one line that loading says, after checking that it took no memory worth the name and that `newleaf
    info` does not fall over."""
    tracemalloc.start()
    with pytest.raises(InputError) as error:
        load_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 400
    assert path.name in line
    with suppress(InputError):  # what only the tensors show, `newleaf info` does not look at
        model_info(path)
    return line


def test_the_file_put_together_again_is_the_same(good: Path, change: Any) -> None:
    one, two = newleaf.load(good), newleaf.load(change(lambda metadata, tensors: None))
    assert all(
        torch.equal(tensor, two.network.state_dict()[name])
        for name, tensor in one.network.state_dict().items()
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(50), "version 1 is not known"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(50), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(50), "claims 1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(50),
        "claims " "9,223,372,036,854,775,808 " "metadata values"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + bytes(50), "metadata key would take 4,611"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99) + bytes(50),
        "metadata k has a value of " "type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 2**40) + bytes(50),
        "claims 1,099,511,627,776"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 10**6) + bytes(50),
        "k would take 1,000,000 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(50),
        "array of type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(50),
        "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(50), "architecture is 'None'"),
    ],
)  # fmt: skip
def test_a_head_that_lies_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert said in refused(tmp_path / "x.gguf")


EDITS: dict[str, tuple[Callable[[Metadata, Tensors], Any], str]] = {
    "an unknown architecture": (
        lambda m, t: m.update({"general.architecture": "rwkv"}),
        "'rwkv'; newleaf reads qwen3, llama, gpt2",
    ),
    "an offset beyond the file": (
        lambda m, t: t["output_norm.weight"].__setitem__(2, 2**40),
        "output_norm.weight would end at byte 1,099",
    ),
    "an offset that wraps": (
        lambda m, t: t["output_norm.weight"].__setitem__(2, 2**64 - 32),
        "its offsets lie",
    ),
    "a shape whose product overflows": (
        lambda m, t: t["token_embd.weight"].__setitem__(0, [2**33, 2**33]),
        "token_embd.weight would end",
    ),
    "a shape of nothing": (lambda m, t: t["token_embd.weight"].__setitem__(0, [32, 0]), "has shape (0, 32)"),
    "too many dimensions": (
        lambda m, t: t["token_embd.weight"].__setitem__(0, [1] * 9),
        "claims 9 dimensions",
    ),
    "blocks that do not fill": (
        lambda m, t: t["output_norm.weight"].__setitem__(slice(0, 2), [[31], 8]),
        "blocks of 32 cannot fill",
    ),
    "an unknown type": (lambda m, t: t["output_norm.weight"].__setitem__(1, 250), "is of type 250"),
    "whole numbers for weights": (
        lambda m, t: t["output_norm.weight"].__setitem__(1, 24),
        "output_norm.weight",
    ),
    "an odd alignment": (lambda m, t: m.update({"general.alignment": 0}), "general.alignment is 0"),
    "a part of a file": (lambda m, t: m.update({"split.count": 3}), "it is one of 3 parts"),
    "a missing tensor": (lambda m, t: t.pop("blk.0.attn_k.weight"), "tensor blk.0.attn_k.weight is missing"),
    "a missing embedding": (lambda m, t: t.pop("token_embd.weight"), "tensor token_embd.weight is missing"),
    "a tensor of another shape": (
        lambda m, t: t["blk.0.attn_k.weight"].__setitem__(0, [32, 16]),
        "and the metadata want (32, 32)",
    ),
    "a tensor nobody asked for": (
        lambda m, t: t.update({"rope_freqs.weight": [[8], 0, 0]}),
        "holds tensor rope_freqs.weight",
    ),
    "a billion layers": (
        lambda m, t: m.update({"llama.block_count": 10**9}),
        "is missing, and the metadata claim 1,000,000,000 layers",
    ),
    "huge widths": (
        lambda m, t: m.update({"llama.feed_forward_length": 2**31}),
        "and the metadata want (2147483648, 32)",
    ),
    "a missing size": (
        lambda m, t: m.pop("llama.embedding_length"),
        "metadata llama.embedding_length is missing",
    ),
    "a size in words": (lambda m, t: m.update({"llama.block_count": "one"}), "block_count is one"),
    "heads that do not divide": (lambda m, t: m.update({"llama.attention.head_count_kv": 3}), "n_kv_head"),
    "evenly stretched rotary": (
        lambda m, t: m.update({"llama.rope.scaling.factor": 4.0}),
        "rope.scaling.type = linear with a factor of 4",
    ),
    "rotary stretched as it was once written": (
        lambda m, t: m.update({"llama.rope.scale_linear": 2.0}),
        "linear with a factor of 2",
    ),
    "rotary stretched in another way": (
        lambda m, t: m.update({"llama.rope.scaling.type": "longrope"}),
        "metadata llama.rope.scaling.type = longrope with a factor of 1 is not honoured",
    ),
    "a factor in words": (
        lambda m, t: m.update({"llama.rope.scaling.factor": "four"}),
        "rope.scaling.factor is four",
    ),
    "a factor of nothing": (
        lambda m, t: m.update({"llama.rope.scaling.factor": float("nan")}),
        "rope.scaling.factor is nan",
    ),
    "yarn that is louder": (
        lambda m, t: m.update(
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_attn_factor": 2.0}
        ),
        "yarn_attn_factor = 2.0 is not honoured",
    ),
    "half-turned heads": (
        lambda m, t: m.update({"llama.rope.dimension_count": 8}),
        "rope.dimension_count is 8",
    ),
    "another kind of tokenizer": (lambda m, t: m.update({"tokenizer.ggml.model": "t5"}), "of the kind 't5'"),
    "no tokenizer": (lambda m, t: m.pop("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
    "an unknown way to cut text": (
        lambda m, t: m.update({"tokenizer.ggml.pre": "chameleon"}),
        "'chameleon'; newleaf knows qwen2",
    ),
    "an end that is no token": (
        lambda m, t: m.update({"tokenizer.ggml.eos_token_id": 4000}),
        "eos_token_id is 4,000",
    ),
    "merges of nothing": (lambda m, t: m.update({"tokenizer.ggml.merges": ["☃ ☃"]}), "the merge '☃ ☃'"),
    "too few kinds": (
        lambda m, t: m.update({"tokenizer.ggml.token_type": [1, 1]}),
        "one kind for each of 272 tokens",
    ),
    "a token that stands twice": (
        lambda m, t: m["tokenizer.ggml.tokens"].__setitem__(7, "!"),
        "'!' stands twice",
    ),
    "a tokenizer larger than the network": (
        lambda m, t: (
            m["tokenizer.ggml.tokens"].extend(["a☃", "b☃", "c☃"]),
            m["tokenizer.ggml.token_type"].extend([1] * 3),
        ),
        "275 tokens and the network only 272",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_is_wrong_inside_is_named(case: str, change: Any) -> None:
    edit, said = EDITS[case]
    assert said in refused(change(edit))


SCORES, TOKENS, KINDS = "tokenizer.ggml.scores", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
PIECE_EDITS: dict[str, tuple[Callable[[Metadata, Tensors], Any], str]] = {
    "no scores": (lambda m, t: m.pop(SCORES), "tokenizer.ggml.scores is missing"),
    "too few scores": (lambda m, t: m[SCORES].pop(), "does not have a number for each of"),
    "scores in words": (
        lambda m, t: m.update({SCORES: ["high"] * len(m[SCORES])}),
        "does not have a number for each of",
    ),
    "a score that is none": (
        lambda m, t: m[SCORES].__setitem__(300, float("nan")),
        "does not have a number for each of",
    ),
    "scores that leave the order open": (
        lambda m, t: m.update({SCORES: [-1000.0] * len(m[SCORES])}),
        "share the score -1000",
    ),
    "a byte without a token": (
        lambda m, t: m[TOKENS].__setitem__(m[TOKENS].index("<0x0A>"), "newline"),
        "no token for the byte <0x0A>",
    ),
    "a byte that is no byte": (
        lambda m, t: m[KINDS].__setitem__(m[TOKENS].index("<0x0A>"), 1),
        "no token for the byte <0x0A>",
    ),
    "a token without end": (
        lambda m, t: m[TOKENS].__setitem__(300, "long" * 500_000),
        "has 2,000,000 characters",
    ),
    "an end that is no token": (
        lambda m, t: m.update({"tokenizer.ggml.eos_token_id": 4000}),
        "eos_token_id is 4,000",
    ),
    "tokens for nothing": (
        lambda m, t: m.update({KINDS: [5] * len(m[KINDS])}),
        "no token for the byte <0x00>",
    ),
}


@pytest.mark.parametrize("case", PIECE_EDITS)
def test_what_is_wrong_in_a_tokenizer_of_sentencepiece_is_named(
    case: str, pieces: Path, tmp_path: Path
) -> None:
    edit, said = PIECE_EDITS[case]
    assert said in refused(rewrite(pieces, tmp_path / "changed.gguf", edit))


EXPERT_EDITS: dict[str, tuple[Callable[[Metadata, Tensors], Any], str]] = {
    "no window": (lambda m, t: m.pop("gpt-oss.attention.sliding_window"), "attention.sliding_window is None"),
    "a window of nothing": (
        lambda m, t: m.update({"gpt-oss.attention.sliding_window": 0}),
        "attention.sliding_window is 0",
    ),
    "no experts": (lambda m, t: m.update({"gpt-oss.expert_count": 0}), "expert_count is 0"),
    "a billion experts": (
        lambda m, t: m.update({"gpt-oss.expert_count": 10**9}),
        "ffn_gate_inp.weight has shape (4, 32)",
    ),
    "more at work than there are": (
        lambda m, t: m.update({"gpt-oss.expert_used_count": 5}),
        "n_expert_active",
    ),
    "a billion layers": (
        lambda m, t: m.update({"gpt-oss.block_count": 10**9}),
        "the metadata claim 1,000,000,000 layers",
    ),
    "experts beyond the file": (
        lambda m, t: t["blk.1.ffn_up_exps.weight"].__setitem__(2, 2**40),
        "ffn_up_exps.weight would end at byte",
    ),
    "blocks that do not fill": (
        lambda m, t: t["blk.1.ffn_up_exps.weight"].__setitem__(0, [16, 64, 4]),
        "blocks of 32 cannot fill",
    ),
    "no sinks": (lambda m, t: t.pop("blk.1.attn_sinks.weight"), "tensor blk.1.attn_sinks.weight is missing"),
    "another way to choose experts": (
        lambda m, t: m.update({"gpt-oss.expert_gating_func": 2}),
        "expert_gating_func = 2 is not honoured",
    ),
}


@pytest.mark.parametrize("case", EXPERT_EDITS)
def test_what_is_wrong_in_a_mixture_of_experts_is_named(case: str, experts: Path, tmp_path: Path) -> None:
    edit, said = EXPERT_EDITS[case]
    assert said in refused(rewrite(experts, tmp_path / "changed.gguf", edit))


def test_a_file_cut_short_anywhere_is_refused(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    last = max(stored.start + stored.size for stored in open_gguf(good).tensors.values())
    for length in (*range(0, 600, 7), *range(600, last, 997), last - 1):
        (tmp_path / "x.gguf").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"x\.gguf"):
            load_gguf(tmp_path / "x.gguf")


@pytest.mark.parametrize("kind", ["good", "pieces", "experts"])
def test_noise_in_the_head_never_ends_in_another_error(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    content, chance = path.read_bytes(), random.Random(5)
    head = min(stored.start for stored in open_gguf(path).tensors.values())
    outcomes = set()
    for n in range(400):
        noisy = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            noisy[chance.randrange(4, 700 if n % 2 else head)] = chance.choice(
                [0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]
            )
        (tmp_path / "x.gguf").write_bytes(noisy)
        try:
            load_gguf(tmp_path / "x.gguf")
            outcomes.add("opened")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"opened", "refused"}


def test_the_command_line_says_it_in_one_line_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind, and long enough")
    for command in (
        ["info", str(tmp_path / "x.gguf")],
        ["generate", str(tmp_path / "x.gguf"), "a"],
        ["info", str(tmp_path / "no.gguf")],
    ):
        assert main(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
