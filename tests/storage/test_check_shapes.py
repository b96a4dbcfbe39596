"""A config.json whose shapes the weights do not have is named by info and plan, without a tensor being
read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import newleaf
from newleaf.plan import plan
from newleaf.storage.model_info import model_info
from newleaf.storage.stored_weights import StoredWeights

KINDS: list[Any] = [
    transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=16, vocab_size=50),
    transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=50,
        tie_word_embeddings=True,
    ),
    transformers.Qwen3Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=50,
    ),
]


@pytest.fixture(params=KINDS, ids=lambda config: config.model_type)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    transformers.AutoModelForCausalLM.from_config(request.param).save_pretrained(tmp_path / "model")

    def read(stored: StoredWeights, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(StoredWeights, "__getitem__", read)
    return tmp_path / "model"


def claim(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    values = json.loads(file.read_text("utf-8"))
    names = {
        "layers": ("n_layer", "num_hidden_layers"),
        "width": ("n_embd", "hidden_size"),
        "vocabulary": ("vocab_size",),
    }
    for name, value in fields.items():
        values |= {each: value for each in names[name] if each in values}
    values.pop("layer_types", None)
    file.write_text(json.dumps(values), "utf-8")


def test_a_folder_that_is_what_it_says_has_no_damage(folder: Path) -> None:
    assert "damage" not in model_info(folder)
    assert plan(str(folder))


@pytest.mark.parametrize(
    ("claimed", "said"),
    [
        ({"layers": 3}, "the weights lack"),
        ({"layers": 9000}, "config.json says 9000 layers, more than the weights have tensors"),
        ({"width": 64}, "has shape"),
        ({"vocabulary": 100_000}, r"has shape \(50, 32\), and the configuration wants \(100000, 32\)"),
    ],
)
def test_shapes_that_the_weights_do_not_have_are_named(
    claimed: dict[str, int], said: str, folder: Path
) -> None:
    import re

    claim(folder, **claimed)
    assert re.search(said, model_info(folder)["damage"])
    with pytest.raises(newleaf.InputError, match=said) as error:
        plan(str(folder))
    assert str(error.value).startswith(str(folder))


def test_a_classifier_and_a_bare_network_fit(tmp_path: Path) -> None:
    model = transformers.GPT2ForSequenceClassification(KINDS[0])
    model.save_pretrained(tmp_path / "judge")
    model.transformer.save_pretrained(tmp_path / "bare")
    assert "damage" not in model_info(tmp_path / "judge")
    assert "damage" not in model_info(tmp_path / "bare")
