"""Every family answers as stock transformers does, and comes back as it went out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from decoded_text import whole_text
from safetensors.torch import load_file, save_file

import newleaf
from newleaf.families import FAMILIES, family_for, family_of
from newleaf.model import GPT, GPTConfig, KVCache
from newleaf.model.context import Context
from newleaf.model.count import count_parameters
from newleaf.model.masks import Masks

Stock = tuple[Any, Path]


def test_logits_equal_those_of_stock_transformers(stock: Stock) -> None:
    reference, folder = stock
    ids = torch.randint(0, 300, (3, 50))
    network = newleaf.load(folder).network
    with torch.no_grad():
        torch.testing.assert_close(network(ids), reference(ids).logits, atol=1e-4, rtol=1e-4)


def test_loss_and_gradient_norm_equal_those_of_stock_transformers(stock: Stock) -> None:
    reference, folder = stock
    ids = torch.randint(0, 300, (2, 33))
    network = newleaf.load(folder).network
    loss = network.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    expected = reference(ids, labels=ids).loss
    expected.backward()
    # GPT-3's queries have 1/√16 folded in, and so their gradient has it once more
    if hasattr(reference.config, "newleaf"):
        for layer in reference.transformer.h:
            layer.attn.attention.q_proj.weight.grad /= 4
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in m.parameters() if p.grad is not None])
        for m in (network, reference)
    ]
    torch.testing.assert_close(norms[0], norms[1], atol=1e-4, rtol=1e-4)


def test_greedy_text_equals_that_of_stock_generate(stock: Stock) -> None:
    reference, folder = stock
    model = newleaf.load(folder)
    prompt = "a small text"
    ids = torch.tensor([model.tokenizer.encode(prompt)])
    expected = reference.generate(
        ids, max_new_tokens=30, do_sample=False, attention_mask=torch.ones_like(ids)
    )[0, ids.shape[1] :]
    wanted = whole_text(model.tokenizer, expected.tolist())
    assert model.generate(prompt, max_tokens=30, temperature=0) == wanted


def test_left_padding_changes_nothing_for_real_tokens(stock: Stock) -> None:
    reference, folder = stock
    network = newleaf.load(folder).network
    ids = torch.randint(0, 300, (2, 20))
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, :7] = False
    with torch.no_grad():
        got = network(ids, real=real)
        torch.testing.assert_close(got[1:, 7:], network(ids[1:, 7:]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got[0], reference(ids[:1]).logits[0], atol=1e-4, rtol=1e-4)


def test_greedy_text_of_a_batch_padded_on_the_left_equals_that_of_stock_generate(stock: Stock) -> None:
    """Prompts shorter and longer than every window, with the cache, token for token."""
    reference, folder = stock
    network = newleaf.load(folder).network
    lengths, new = (20, 3, 11), 30
    ids = torch.randint(0, 299, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    reference.generation_config.eos_token_id = None  # every row goes on to the end
    expected = reference.generate(ids, attention_mask=real.long(), max_new_tokens=new, do_sample=False)[
        :, ids.shape[1] :
    ]
    cache, written, read = KVCache(network.config, len(lengths)), [], ids
    with torch.no_grad():
        for _ in range(new):
            logits = network(read, real=real if cache.length == 0 else None, cache=cache)[:, -1]
            read = logits.argmax(-1, keepdim=True)
            written.append(read)
    assert torch.cat(written, dim=1).tolist() == expected.tolist()


def test_saving_again_gives_stock_transformers_the_same_logits_and_tensors(
    stock: Stock, tmp_path: Path
) -> None:
    reference, folder = stock
    out = tmp_path / "again"
    assert newleaf.load(folder).save(out) is None
    again, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.randint(0, 300, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, reference(ids).logits, atol=1e-5, rtol=1e-5)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bf16_stays_bf16(make: Callable[[str, Path], Stock], tmp_path: Path) -> None:
    reference, _ = make("qwen3", tmp_path / "fp32")
    reference.bfloat16().save_pretrained(tmp_path / "bf16")
    (tmp_path / "bf16" / "tokenizer.json").write_bytes((tmp_path / "fp32" / "tokenizer.json").read_bytes())
    model = newleaf.load(tmp_path / "bf16")
    assert model.network.head.weight.dtype == torch.bfloat16
    model.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "bfloat16"
    assert newleaf.load(tmp_path / "bf16", weights="fp32").network.head.weight.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_published_sizes_have_the_published_parameter_counts_and_those_of_the_stock_class(
    family: Any,
) -> None:
    published = {
        "gpt1-117m": 116_534_784, "gpt2-124m": 124_439_808, "gpt2-355m": 354_823_168,
        "gpt2-774m": 774_030_080, "gpt2-1.5b": 1_557_611_200, "distilgpt2-82m": 81_912_576,
        "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
        "tinyllama-1.1b": 1_100_048_384, "gpt-neo-125m": 125_198_592, "gpt-neo-1.3b": 1_315_575_808,
        "gpt-neo-2.7b": 2_651_307_520, "gptj-6b": 6_050_882_784, "gpt-neox-20b": 20_554_567_680,
        "pythia-14m": 14_067_712, "pythia-70m": 70_426_624, "pythia-160m": 162_322_944,
        "pythia-410m": 405_334_016, "pythia-1b": 1_011_781_632, "pythia-1.4b": 1_414_647_808,
        "pythia-2.8b": 2_775_208_960, "pythia-6.9b": 6_857_302_016, "pythia-12b": 11_846_072_320,
        "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096,
        "qwen3-8b": 8_190_735_360,
    }  # fmt: skip
    in_billions = {"gpt-oss-20b": 20.91, "gpt-oss-120b": 116.83}  # as the model card rounds them
    for name, config in family.sizes.items():
        if family.name == "gpt3":
            continue  # published in round numbers only; test_gpt3.py has them
        count = count_parameters(config).total
        values = family.write_config(config)
        with torch.device("meta"):
            assert GPT(config).parameter_count() == count
            stock = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values))
        assert sum(weight.numel() for weight in stock.parameters()) == count
        assert count == published.get(name, count)
        assert name in published or round(count / 1e9, 2) == in_billions[name]
        assert family_for(config) is family


@pytest.mark.parametrize(
    ("case", "field", "value"),
    [
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "activation_function", "mish"),
        ("gpt2", "per_layer_config", {"0": {"n_head": 1}}),
        ("llama", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("gpt_oss", "quantization_config", {"quant_method": "fp8"}),
        ("gpt_neo", "transformers_weights", "other.safetensors"),
        ("gpt_oss", "output_router_logits", True),
        ("qwen3", "rope_parameters", {"rope_type": "longrope", "factor": 4.0}),
        ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("llama", "rope_scaling", {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7, "mscale_all_dim": 1.2}),
        ("gpt_neox", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
    ],
)
def test_an_unsupported_field_is_refused_by_name(
    case: str, field: str, value: Any, make: Callable[[str, Path], Stock], tmp_path: Path
) -> None:
    _, folder = make(case, tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {field: value}))
    with pytest.raises(newleaf.InputError, match=field):
        newleaf.load(folder)


def test_every_boolean_of_a_stock_configuration_is_compared_both_ways_or_refused(
    cases: dict[str, Any],
) -> None:
    nothing_of_the_network = {"use_cache", "summary_use_proj", "summary_proj_to_labels", "is_decoder"}
    for kind in {kind for kind, _ in cases.values()}:
        names = [
            field.name
            for field in dataclasses.fields(kind)
            if field.type in (bool, "bool", bool | None, "bool | None")
        ]
        own = [
            name
            for name in names
            if name not in {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
        ]
        assert own
        for name in set(own) - nothing_of_the_network:
            compared = {getattr(kind(**fields), name) for of, fields in cases.values() if of is kind}
            for value in {True, False} - compared:
                config = kind(vocab_size=300, **{name: value}).to_dict()
                with pytest.raises(newleaf.InputError, match=name):
                    family_of(config).read_config(config)


def test_scores_that_stock_gpt2_computes_in_fp32_are_fp32_in_a_bf16_model(
    make: Callable[[str, Path], Stock], tmp_path: Path
) -> None:
    """With large queries, whose scores bf16 cannot distinguish; the reference is one stock layer."""
    reference, folder = make("gpt2-scores-by-depth", tmp_path / "m")
    theirs = reference.bfloat16().transformer.h[2].attn
    theirs.config._attn_implementation = "eager"
    model = newleaf.load(folder, weights="bf16")
    assert model.network.config.fp32_scores
    ours = model.network.blocks[2].attention
    with torch.no_grad():
        for weight in (ours.q.weight, theirs.c_attn.weight[:, :36]):
            weight.mul_(64)
    x, causal = torch.randn(1, 40, 36).bfloat16(), torch.full((40, 40), float("-inf")).triu(1)
    context = Context(torch.arange(40), Masks(lambda window: None))
    with torch.no_grad():
        wanted = theirs(x, attention_mask=causal[None, None])[0]
        near = (ours(x, context) - wanted).float().abs().mean()
        ours.fp32_scores = False
        far = (ours(x, context) - wanted).float().abs().mean()
    assert near < 0.3 * far


def test_a_missing_or_misshapen_tensor_is_named(make: Callable[[str, Path], Stock], tmp_path: Path) -> None:
    _, folder = make("gpt2", tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(newleaf.InputError, match=r"h\.1\.mlp\.c_fc\.weight"):
        newleaf.load(folder)
    save_file(tensors | {name: torch.zeros(3, 3)}, folder / "model.safetensors")
    with pytest.raises(newleaf.InputError, match=r"h\.1\.mlp\.c_fc\.weight has shape \(3, 3\)"):
        newleaf.load(folder)


def test_an_unknown_architecture_is_refused_with_the_known_ones(
    make: Callable[[str, Path], Stock], tmp_path: Path
) -> None:
    _, folder = make("gpt2", tmp_path / "m")
    (folder / "config.json").write_text('{"architectures": ["BertForMaskedLM"], "model_type": "bert"}')
    with pytest.raises(newleaf.InputError, match=r"BertForMaskedLM.*qwen3.*gpt2.*gpt1"):
        newleaf.load(folder)


def test_a_truncated_weights_file_is_named(make: Callable[[str, Path], Stock], tmp_path: Path) -> None:
    _, folder = make("gpt2", tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(newleaf.InputError, match=r"model\.safetensors: damaged"):
        newleaf.load(folder)


def test_a_network_no_stock_class_holds_is_saved_in_newleafs_own_form_with_advice(tmp_path: Path) -> None:
    from newleaf.model import GPT
    from newleaf.storage.model_folder import load_folder, save_folder
    from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

    config = GPTConfig(
        300, 16, 2, 2, 32, block="post_norm", final_norm=True, tie_embeddings=False, head_bias=True
    )
    network = GPT(config)
    advice = save_folder(
        tmp_path / "m", config, network.state_dict(), train_tokenizer(["a"], TokenizerConfig(), 257)
    )
    assert advice is not None
    assert "model.final_norm false" in advice
    assert "model.head_bias false" in advice
    ids = torch.randint(0, 257, (1, 10))
    with torch.no_grad():
        assert torch.equal(load_folder(tmp_path / "m").network(ids), network.eval()(ids))
    changed = config.replace(final_norm=False, head_bias=False)
    held = family_for(changed)
    assert held is not None
    assert held.name == "gpt1"


def test_sinusoidal_positions_are_written_as_stock_gpt2_and_come_back_sinusoidal(tmp_path: Path) -> None:
    from newleaf.model import GPT
    from newleaf.storage.model_folder import load_folder, save_folder
    from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

    config = GPTConfig(300, 16, 2, 2, 32, positions="sinusoidal")
    network = GPT(config).eval()
    assert (
        save_folder(
            tmp_path / "m", config, network.state_dict(), train_tokenizer(["a"], TokenizerConfig(), 257)
        )
        is None
    )
    ids = torch.randint(0, 257, (1, 16))
    with torch.no_grad():
        stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        torch.testing.assert_close(stock(ids).logits, network(ids), atol=1e-5, rtol=1e-5)
        again = load_folder(tmp_path / "m").network
        assert again.config.positions == "sinusoidal"
        assert torch.equal(again(ids), network(ids))
