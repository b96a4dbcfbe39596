"""Recipes: what is typed becomes what is meant, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from newleaf.errors import InputError
from newleaf.train.config import PretrainConfig
from newleaf.train.recipe import build, nest, plain, read_recipe, seconds


def test_every_type_is_read_from_text_as_typed_on_a_command_line() -> None:
    config = build(
        PretrainConfig,
        nest({
            "data.val_fraction": "0.1", "data.limit": "20k", "data.document_mask": "true", "tokenizer.vocab_size": "4096",
            "optimizer.learning_rate": "1e-3", "train.schedule.decay": "0.3", "train.prompts": ["a", "b"], "data.validation": "other.txt",
        }),
    )  # fmt: skip
    assert config.data.val_fraction == 0.1
    assert config.data.limit == 20_000
    assert config.data.document_mask is True
    assert config.optimizer.learning_rate == 1e-3
    assert config.train.schedule.decay == 0.3
    assert config.train.prompts == ("a", "b")


def test_a_configuration_written_out_reads_back_the_same() -> None:
    config = build(PretrainConfig, {"source": ["a.txt"], "train": {"steps": 5, "schedule": {"warmup": 0.1}}, "model": {"n_layer": 2}})
    assert build(PretrainConfig, plain(config)) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data.val_fractoin": 0.1}, "data.val_fractoin: no such option; did you mean data.val_fraction?"),
        ({"optimizr.kind": "muon"}, "optimizr: no such option; did you mean optimizer?"),
        ({"optimizer.kind": "sgd"}, "optimizer.kind: 'sgd' is not one of muon, adamw"),
        ({"train.steps": "many"}, "train.steps: must be a whole number"),
        ({"train.steps": 1.5}, "train.steps: must be a whole number"),
        ({"train.steps": 10, "train.time": "3m"}, "train.steps: a run has one length, and time is given too"),
        ({"train.time": "soon"}, "train.time: 'soon' is not a duration"),
        ({"train.schedule.decay": 2}, "train.schedule.decay: must be between 0 and 1"),
        ({"optimizer.learning_rate": -1}, "optimizer.learning_rate: must be above 0"),
        ({"data.document_mask": "perhaps"}, "data.document_mask: must be true or false"),
        ({"data": 3}, "data: is a section of options"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(PretrainConfig, nest(options))
    assert str(caught.value).startswith(message)


def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train:\n  steps: [1\ndata: }\n")
    with pytest.raises(InputError, match=r"r\.yaml:3: not valid YAML"):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("3m", 180), ("1h30m", 5400), ("0.5m", 30), (45, 45)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value
