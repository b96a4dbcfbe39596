"""GGUF files against llama.cpp, transformers' own reader, and the format's arithmetic."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from jinja2.sandbox import SandboxedEnvironment
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

import newleaf
from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.quant import mxfp4
from newleaf.quant.packed_layers import PackedWeight, PlainWeights
from newleaf.storage.load_gguf import load_gguf
from newleaf.storage.save_gguf import save_gguf
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

TEXT = Path(textwrap.__file__).read_text("utf-8")
SENTENCES = [
    "Hello world! It's   12345 o'clock, isn't IT?\n\n\tdef f(x):\n    return x**2  \n",
    "naïve façade, 中文字符 and emoji 🎉🎉; ½ + ¾ = 1¼ ",
    "  leading, trailing   \r\n  'LL 'll THEY'RE 2024-01-01",
]
SMALL: dict[str, Any] = {"vocab_size": 310, "context_length": 64, "n_layer": 2, "n_head": 4, "n_embd": 64}
SWIGLU: dict[str, Any] = {
    "norm": "rms_norm",
    "positions": "rotary",
    "activation": "silu",
    "gated": True,
    "feedforward_bias": False,
    "n_inner": 96,
    "init": "normal",
}
NO_BIAS = {"attention_bias": False, "attention_out_bias": False}
NEOX: dict[str, Any] = {"positions": "rotary", "rotary_dim": 4, "init": "normal"}
YARN: dict[str, Any] = {"yarn_factor": 4.0, "yarn_context": 16, "rotary_base": 1000.0}
GPT_OSS: dict[str, Any] = {
    "norm": "rms_norm",
    "positions": "rotary",
    "sinks": True,
    "activation": "clamped_swiglu",
    "gated": True,
    "n_expert": 6,
    "n_expert_active": 2,
    "n_kv_head": 2,
    "head_dim": 32,
    "n_inner": 96,
    "init": "normal",
    "tie_embeddings": False,
}
CONFIGS = {
    "gpt2": GPTConfig(**SMALL),
    "gpt2-untied": GPTConfig(**SMALL, tie_embeddings=False, n_inner=160, norm_eps=1e-3),
    "gptneox": GPTConfig(**SMALL, **NEOX, block="parallel", tie_embeddings=False),
    "gptneox-sequential-tied": GPTConfig(**SMALL, **NEOX, rotary_base=300.0),
    "llama": GPTConfig(**SMALL, **SWIGLU, **NO_BIAS, n_kv_head=2, tie_embeddings=False, rotary_base=500.0),
    "llama-wide-heads-bias": GPTConfig(**SMALL, **SWIGLU, head_dim=32, n_kv_head=1, norm_eps=1e-6),
    "qwen3": GPTConfig(**SMALL, **SWIGLU, **NO_BIAS, qk_norm=True, n_kv_head=2, head_dim=32),
    "qwen3-bias": GPTConfig(
        **SMALL, **SWIGLU, qk_norm=True, attention_bias=True, attention_out_bias=False, tie_embeddings=False
    ),
    "gpt-oss": GPTConfig(**SMALL, **GPT_OSS, **YARN, windows=(9, 0)),
    "gpt-oss-plain-tied": GPTConfig(
        **(
            SMALL
            | GPT_OSS
            | {
                "n_layer": 3,
                "n_expert": 3,
                "n_expert_active": 3,
                "tie_embeddings": True,
                "windows": (5, 0, 5),
            }
        )
    ),
    "llama-yarn": GPTConfig(**SMALL, **SWIGLU, **NO_BIAS, **YARN, n_kv_head=2),
    "qwen3-yarn": GPTConfig(**SMALL, **SWIGLU, **NO_BIAS, **YARN, qk_norm=True, head_dim=32),
    "gptneox-yarn": GPTConfig(
        **SMALL, **(NEOX | YARN | {"rotary_dim": 8}), block="parallel", tie_embeddings=False
    ),
}
# Of gpt-oss the one whose tokens go to all experts: rounding may send a token to another one.
NAMES = ["gpt2", "gptneox", "llama", "qwen3", "gpt-oss-plain-tied"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], TokenizerConfig(), 300)


def random_model(config: GPTConfig, tokenizer: Tokenizer) -> Model:
    """Every weight random, norms and biases too, and far enough from zero that the best token stands out."""
    torch.manual_seed(3)
    network = GPT(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return Model(network, tokenizer, "")


def greedy(network: GPT, ids: list[int], count: int, known: int) -> list[int]:
    with torch.inference_mode():
        for _ in range(count):
            ids = [*ids, int(network(torch.tensor([ids]))[0, -1, :known].argmax())]
    return ids


def llama_cpp(path: Path, **options: Any) -> Any:
    peer = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which compiles llama.cpp")
    fp32 = {"type_k": 0, "type_v": 0}
    return peer.Llama(
        str(path),
        n_ctx=64,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        verbose=False,
        **(fp32 | options),
    )


def llama_cpp_logits(peer: Any, ids: list[int]) -> torch.Tensor:
    peer.reset()
    peer.eval(ids)
    return torch.tensor(np.array(peer.scores[: len(ids)]))


@pytest.mark.parametrize("case", CONFIGS)
def test_llama_cpp_opens_what_newleaf_writes_and_gives_the_same_greedy_text(
    case: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = random_model(CONFIGS[case], tokenizer)
    assert model.save(tmp_path / "x.gguf") is None
    peer = llama_cpp(tmp_path / "x.gguf")
    ids = peer.tokenize(SENTENCES[0][:40].encode(), add_bos=False)
    assert ids == tokenizer.encode(SENTENCES[0][:40])
    wanted = model.network(torch.tensor([ids]))[0].detach()
    # ggml computes GELU from a table of fp16.
    torch.testing.assert_close(
        llama_cpp_logits(peer, ids), wanted, atol=2e-3 * float(wanted.abs().max()), rtol=0
    )
    theirs = list(ids)
    for _ in range(20):
        theirs.append(int(llama_cpp_logits(peer, theirs)[-1, : tokenizer.vocab_size].argmax()))
    assert greedy(model.network, ids, 20, tokenizer.vocab_size) == theirs


@pytest.mark.parametrize("case", ["gpt2", "gpt2-untied", "llama", "qwen3"])
def test_transformers_reads_the_same_network_from_the_file(
    case: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = random_model(CONFIGS[case], tokenizer)
    model.save(tmp_path / "x.gguf")
    config, ours = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file="x.gguf"), model.network.config
    config.tie_word_embeddings = ours.tie_embeddings
    unread = {
        "gpt2": {"n_positions": ours.context_length, "n_inner": ours.n_inner},
        "qwen3": {"head_dim": ours.head_dim},
    }
    # metadata that transformers leaves at their defaults
    for name, value in unread.get(config.model_type, {}).items():
        setattr(config, name, value)
    stock = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    read = load_gguf_checkpoint(str(tmp_path / "x.gguf"), return_tensors=True, model_to_load=stock)["tensors"]
    missing = stock.load_state_dict({name: tensor.clone() for name, tensor in read.items()}, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    assert not missing.unexpected_keys
    stock.tie_weights()
    ids = torch.tensor([tokenizer.encode(SENTENCES[1])[:50]])
    with torch.inference_mode():
        torch.testing.assert_close(stock(ids).logits, model.network(ids), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CONFIGS)
def test_the_way_there_and_back_changes_no_tensor(case: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = random_model(CONFIGS[case], tokenizer)
    model.save(tmp_path / "x.gguf")
    back = newleaf.load(tmp_path / "x.gguf")
    assert back.network.config.replace(init=model.network.config.init) == model.network.config
    ours = model.network.state_dict()
    assert ours.keys() == back.network.state_dict().keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in back.network.state_dict().items())
    assert back.tokenizer.vocab_size == tokenizer.vocab_size < back.network.config.vocab_size
    assert [back.tokenizer.encode(text) for text in SENTENCES] == [
        tokenizer.encode(text) for text in SENTENCES
    ]
    assert (back.tokenizer.bos_id, back.tokenizer.eos_id, back.tokenizer.pad_id) == (299, 299, 299)


def test_each_tensor_is_dequantised_once(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = pytest.importorskip("gguf")
    random_model(CONFIGS["llama"], tokenizer).save(tmp_path / "x.gguf", type="Q8_0")
    dequantize, seen = gguf.quants.dequantize, []
    monkeypatch.setattr(
        gguf.quants, "dequantize", lambda data, kind: seen.append(data.shape) or dequantize(data, kind)
    )
    newleaf.load(tmp_path / "x.gguf", weights="fp32")
    assert len(seen) == len(gguf.GGUFReader(tmp_path / "x.gguf").tensors)


def test_exact_gelu_and_sinusoids_come_back_although_llama_cpp_has_neither(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = GPTConfig(**SMALL, activation="gelu", positions="sinusoidal")
    model = random_model(config, tokenizer)
    assert "tanh approximation" in (model.save(tmp_path / "x.gguf") or "")
    back = newleaf.load(tmp_path / "x.gguf")
    ids = torch.tensor([tokenizer.encode(SENTENCES[0])])
    assert back.network.config == config
    assert torch.equal(back.network(ids), model.network(ids))
    wanted = model.network(ids)[0].detach()
    torch.testing.assert_close(
        llama_cpp_logits(llama_cpp(tmp_path / "x.gguf"), ids[0].tolist()),
        wanted,
        atol=0.01 * float(wanted.abs().max()),
        rtol=0,
    )


def test_yarn_that_llama_cpp_computes_otherwise_comes_back_and_is_told(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """transformers' gpt-oss does not round the interpolated range, ggml does; and llama.cpp takes 32 and 1
    for the betas."""
    unrounded = GPTConfig(**SMALL, **GPT_OSS, **YARN, windows=(9, 0), yarn_truncate=False)
    model = random_model(unrounded, tokenizer)
    assert "llama.cpp rounds the range of dimensions that YaRN interpolates" in (
        model.save(tmp_path / "x.gguf") or ""
    )
    assert newleaf.load(tmp_path / "x.gguf").network.config == unrounded
    ids = torch.tensor([tokenizer.encode(SENTENCES[0])])
    rounded = random_model(unrounded.replace(yarn_truncate=True), tokenizer).network(ids)[0].detach()
    assert (rounded - model.network(ids)[0]).abs().max() > 0.05 * rounded.abs().max()
    theirs = llama_cpp_logits(llama_cpp(tmp_path / "x.gguf"), ids[0].tolist())
    torch.testing.assert_close(theirs, rounded, atol=1e-4 * float(rounded.abs().max()), rtol=0)

    betas = GPTConfig(
        **SMALL, **SWIGLU, **NO_BIAS, **YARN, qk_norm=True, yarn_beta_fast=20.0, yarn_beta_slow=2.0
    )
    model = random_model(betas, tokenizer)
    assert "--yarn-beta-fast 20 --yarn-beta-slow 2" in (model.save(tmp_path / "x.gguf") or "")
    assert newleaf.load(tmp_path / "x.gguf").network.config == betas
    wanted = model.network(ids)[0].detach()
    theirs = llama_cpp_logits(
        llama_cpp(tmp_path / "x.gguf", yarn_beta_fast=20.0, yarn_beta_slow=2.0), ids[0].tolist()
    )
    torch.testing.assert_close(theirs, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_experts_on_the_grid_of_mxfp4_come_back_bit_for_bit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = random_model(CONFIGS["gpt-oss"].replace(n_expert_active=6), tokenizer)
    ours = model.network.state_dict()
    experts = [
        name for name in ours if name.endswith(("feedforward.gate", "feedforward.up", "feedforward.down"))
    ]
    for name in experts:
        shape = ours[name].shape
        blocks = torch.randint(0, 256, (*shape[:-1], shape[-1] // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 128, blocks.shape[:-1], dtype=torch.uint8)
        ours[name].copy_(mxfp4.dequantize(blocks, scales, torch.float32))
    model.save(tmp_path / "x.gguf", type="MXFP4")
    back = newleaf.load(tmp_path / "x.gguf").network
    assert len(experts) == 6
    for name, tensor in PlainWeights(back).items():
        kept = name in experts or tensor.ndim == 1 or name.endswith(("_bias", "router.weight"))
        assert torch.equal(tensor, ours[name] if kept else ours[name].bfloat16().float()), name
    ids = tokenizer.encode(SENTENCES[0])[:40]
    wanted = back(torch.tensor([ids]))[0].detach()
    theirs = llama_cpp_logits(llama_cpp(tmp_path / "x.gguf"), ids)
    # it rounds what it multiplies with to eight bits
    assert torch.corrcoef(torch.stack([theirs.flatten(), wanted.flatten()]))[0, 1] > 0.99
    with pytest.raises(InputError, match="MXFP4 is for experts"):
        random_model(CONFIGS["llama"], tokenizer).save(tmp_path / "y.gguf", type="MXFP4")


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_each_number_format_rounds_as_it_is_defined_to(
    kind: str, case: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = random_model(CONFIGS[case], tokenizer)
    model.save(tmp_path / "x.gguf", type=kind)
    back, ours = PlainWeights(newleaf.load(tmp_path / "x.gguf").network), model.network.state_dict()
    for name, tensor in ours.items():
        if tensor.ndim == 1 or name.endswith(("_bias", "router.weight", "position.weight")):
            assert torch.equal(back[name], tensor), name
        elif kind in ("F16", "BF16"):
            assert torch.equal(
                back[name], tensor.to(torch.float16 if kind == "F16" else torch.bfloat16).float()
            ), name
        else:
            blocks = tensor.reshape(-1, 32)
            eight = kind == "Q8_0" or name in ("embedding.token.weight", "head.weight")
            # Half a step of 1/127 or, where four bits are cut at 7, a whole one of 1/8 of the block's
            # largest; the scale is an fp16.
            step = blocks.abs().amax(1, keepdim=True) * (0.5 / 127 if eight else 1 / 8)
            error = (back[name].reshape(-1, 32) - blocks).abs()
            assert (error <= 1.01 * step + 1e-3 * blocks.abs()).all(), name
            assert error.max() > 0
    peer = llama_cpp(tmp_path / "x.gguf")
    ids = tokenizer.encode(SENTENCES[0])[:40]
    theirs = llama_cpp_logits(peer, ids).flatten()
    again = newleaf.load(tmp_path / "x.gguf").network(torch.tensor([ids])).detach().flatten()
    # llama.cpp rounds what it multiplies with to eight bits too
    assert torch.corrcoef(torch.stack([theirs, again]))[0, 1] > 0.99


def words(pre: str) -> Any:
    """Ways to cut text as the models that have these names ship them in tokenizer.json."""
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    llama = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    gpt_4o = r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""  # noqa: E501
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(qwen), "isolated"), raw]),
        "gpt-2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(llama), "isolated"), raw]),
        "gpt-4o": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(gpt_4o), "isolated"), raw]),
    }[pre]


@pytest.mark.parametrize("pre", ["qwen2", "gpt-2", "smollm", "llama-bpe", "gpt-4o"])
def test_ids_are_those_of_llama_cpp_for_every_way_to_cut_text(pre: str, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer, backend.decoder = words(pre), decoders.ByteLevel()
    texts = [TEXT, *SENTENCES * 3, "12 123 1234 2024 " * 20]
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    # A word that is a token but that no merge makes: llama-bpe alone takes it whole.
    description = json.loads(backend.to_str())
    description["model"]["merges"] = [
        pair for pair in description["model"]["merges"] if "".join(pair) != "Ġtext"
    ]
    assert "Ġtext" in description["model"]["vocab"]
    backend = tokenizers.Tokenizer.from_str(json.dumps(description))
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    last = backend.token_to_id("<|end|>")
    tokenizer = Tokenizer(backend, last, last, last, {"chat_template": "{{ messages }}"})
    model = random_model(GPTConfig(**(SMALL | {"vocab_size": last + 1})), tokenizer)
    model.save(tmp_path / "x.gguf")
    back, peer = newleaf.load(tmp_path / "x.gguf").tokenizer, llama_cpp(tmp_path / "x.gguf")
    assert peer.metadata["tokenizer.ggml.pre"] == pre
    for text in ["the text", *SENTENCES, TEXT[3000:5000]]:
        assert back.encode(text) == tokenizer.encode(text) == peer.tokenize(text.encode(), add_bos=False)
        assert back.decode(back.encode(text)) == text
    assert back.settings["chat_template"] == "{{ messages }}"
    assert back.encode("<|end|>") != [last]
    assert peer.tokenize(b"<|end|>", add_bos=False, special=True) == [last]


@pytest.fixture(scope="module")
def smollm(request: pytest.FixtureRequest) -> tuple[Path, Model]:
    path = Path(__file__).parents[3] / "shared" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip("needs the shared models beside the checkout")
    return path, newleaf.load(path, weights="fp32")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "MXFP4"])
@pytest.mark.parametrize("case", CONFIGS)
def test_blocks_stay_packed_and_mean_what_they_meant(
    kind: str, case: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    if (kind == "MXFP4") != bool(CONFIGS[case].n_expert):
        pytest.skip("MXFP4 is for experts")
    random_model(CONFIGS[case], tokenizer).save(tmp_path / "x.gguf", type=kind)
    packed, plain = newleaf.load(tmp_path / "x.gguf"), newleaf.load(tmp_path / "x.gguf", weights="fp32")
    assert any(isinstance(module, PackedWeight) for module in packed.network.modules())
    weights = PlainWeights(packed.network)
    assert set(weights) == set(plain.network.state_dict())
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.network.state_dict().items())


def test_smollm_opens_packed_in_a_fifth_of_the_memory(smollm: tuple[Path, Model]) -> None:
    packed = newleaf.load(smollm[0]).network
    held = sum(part.nbytes for part in (*packed.parameters(), *packed.buffers()))
    assert held < 0.2 * sum(part.nbytes for part in smollm[1].network.parameters())
    # four bits already: not rounded again
    for network in (packed, newleaf.load(smollm[0], weights="int4").network):
        weights = PlainWeights(network)
        assert all(
            torch.equal(weights[name], tensor)
            for name, tensor in smollm[1].network.state_dict().items()
            if "blocks" in name
        )


def test_smollm_knows_the_capital_of_france(smollm: tuple[Path, Model]) -> None:
    tokenizer = smollm[1].tokenizer
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = (
        SandboxedEnvironment()
        .from_string(tokenizer.settings["chat_template"])
        .render(messages=messages, add_generation_prompt=True)
    )
    with_specials = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    with_specials.encode_special_tokens = False
    ids = with_specials.encode(prompt).ids
    assert ids[0] == tokenizer.bos_id
    assert ids.count(2) == 2
    assert "Paris" in tokenizer.decode(greedy(smollm[1].network, ids, 8, tokenizer.vocab_size)[len(ids) :])


def test_ids_and_logits_of_smollm_are_those_of_llama_cpp(smollm: tuple[Path, Model]) -> None:
    path, model = smollm
    peer = llama_cpp(path)
    for text in SENTENCES:
        assert model.tokenizer.encode(text) == peer.tokenize(text.encode(), add_bos=False)
    ids = model.tokenizer.encode("The capital of France is")
    theirs, ours = llama_cpp_logits(peer, ids), model.network(torch.tensor([ids]))[0].detach()
    # it rounds what it multiplies with to eight bits
    assert torch.corrcoef(torch.stack([theirs.flatten(), ours.flatten()]))[0, 1] > 0.998
    assert theirs[-1].argmax() == ours[-1].argmax()


def test_blocks_of_four_bits_and_an_offset_are_read_as_the_format_says(smollm: tuple[Path, Model]) -> None:
    reader = pytest.importorskip("gguf").GGUFReader(smollm[0])
    stored = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_down.weight")
    # fp16 scale, fp16 offset, 16 bytes of two values: first the low halves, then the high
    blocks = np.array(stored.data).reshape(-1, 20)
    scale, offset = blocks[:, 0:2].copy().view(np.float16), blocks[:, 2:4].copy().view(np.float16)
    values = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1) * scale.astype(
        np.float32
    ) + offset.astype(np.float32)
    ours = smollm[1].network.state_dict()["blocks.0.feedforward.down.weight"]
    assert torch.equal(ours, torch.from_numpy(values).reshape(576, 1536))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"block": "post_norm", "final_norm": False}, "gpt2, wants block = pre_norm"),
        ({"activation": "relu"}, "wants activation = gelu_tanh"),
        ({"windows": (8, 0)}, "wants windows"),
        ({**GPT_OSS, "windows": (0, 8)}, "gpt-oss, wants windows = (8, 0)"),
        ({**GPT_OSS, "windows": (8, 0), "swiglu_limit": 3.0}, "gpt-oss, wants swiglu_limit = 7.0"),
        ({**GPT_OSS, "windows": (8, 0), "n_expert": 0}, "gpt-oss, wants n_expert = 2"),
        (
            {**NEOX, "block": "parallel", "rotary_interleaved": True},
            "gptneox, wants rotary_interleaved = false",
        ),
        ({**SWIGLU, **NO_BIAS, "rotary_dim": 8}, "wants rotary_dim = 16"),
    ],
)
def test_a_network_that_no_layout_holds_is_refused_by_name(
    change: dict[str, Any], said: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = GPTConfig(**(SMALL | change))
    with pytest.raises(InputError, match="writes qwen3, llama, gpt2, gptneox, gpt-oss") as error:
        save_gguf(tmp_path / "x.gguf", config, GPT(config).state_dict(), tokenizer)
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_gguf_cannot_hold_is_refused(tmp_path: Path) -> None:
    for kind, size in (("byte", None), ("unigram", 300)):
        other = train_tokenizer([TEXT], TokenizerConfig(kind=kind), size)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"GGUF holds byte-level BPE .*; this one is {kind}"):
            random_model(GPTConfig(**(SMALL | {"vocab_size": 500})), other).save(tmp_path / "x.gguf")
    with pytest.raises(InputError, match="300 tokens and the network only 290"):
        random_model(
            GPTConfig(**(SMALL | {"vocab_size": 290})), train_tokenizer([TEXT], TokenizerConfig(), 300)
        ).save(tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_a_writing_that_fails_leaves_the_old_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = random_model(CONFIGS["qwen3"], tokenizer)
    model.save(tmp_path / "x.gguf")
    before = (tmp_path / "x.gguf").read_bytes()
    weights = model.network.state_dict()
    del weights["blocks.1.feedforward.down.weight"]
    with pytest.raises(KeyError):
        save_gguf(tmp_path / "x.gguf", model.network.config, weights, tokenizer)
    assert (tmp_path / "x.gguf").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_options_work_or_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(CONFIGS["llama"], tokenizer)
    model.save(tmp_path / "x.gguf")
    half = newleaf.load(tmp_path / "x.gguf", weights="bf16").network.state_dict()
    assert all(
        torch.equal(tensor, model.network.state_dict()[name].bfloat16()) for name, tensor in half.items()
    )
    with pytest.raises(InputError, match="'Q5_K' is not one of F32, F16"):
        model.save(tmp_path / "y.gguf", type="Q5_K")
    with pytest.raises(InputError, match="Q8_0 is for GGUF files"):
        model.save(tmp_path / "folder", type="Q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    for act in (lambda: load_gguf(tmp_path / "x.gguf"), lambda: model.save(tmp_path / "y.gguf")):
        with pytest.raises(InputError, match=r"pip install 'newleaf\[gguf\]'"):
            act()


def test_info_tells_what_a_file_holds(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model(CONFIGS["gptneox-sequential-tied"], tokenizer)
    model.save(tmp_path / "x.gguf", type="Q8_0")
    assert main(["info", str(tmp_path / "x.gguf"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "gpt_neox"
    assert found["parameters"] == model.network.parameter_count()
    assert found["tokenizer"] == {"kind": "bpe", "vocab_size": 300}
    assert found["stored_as"].startswith("GGUF, F32, Q8_0")
    assert found["context"] == 64
