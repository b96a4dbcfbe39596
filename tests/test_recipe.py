"""Recipes: what is typed becomes what is meant, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from newleaf.errors import InputError
from newleaf.machine import pick_device
from newleaf.model import GPTConfig
from newleaf.recipe import build, nest, plain, read_recipe, seconds
from newleaf.train.objective.train_config import PretrainConfig, TrainConfig, with_batch_size
from newleaf.train.pretraining.prepare_pretraining import check_size


def test_every_type_is_read_from_text_as_typed_on_a_command_line() -> None:
    config = build(
        PretrainConfig,
        nest({
            "data.val_fraction": "0.1", "data.limit": "20k", "data.document_mask": "true",
            "tokenizer.vocab_size": "4096",
            "optimizer.learning_rate": "1e-3", "train.schedule.decay": "0.3", "train.prompts": ["a", "b"],
            "data.validation": "other.txt",
        }),
    )  # fmt: skip
    assert config.data.val_fraction == 0.1
    assert config.data.limit == 20_000
    assert config.data.document_mask is True
    assert config.optimizer.learning_rate == 1e-3
    assert config.train.schedule.decay == 0.3
    assert config.train.prompts == ("a", "b")


def test_a_configuration_written_out_reads_back_the_same() -> None:
    config = build(
        PretrainConfig,
        {"source": ["a.txt"], "train": {"steps": 5, "schedule": {"warmup": 0.1}}, "model": {"n_layer": 2}},
    )
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


WRONG_RECIPES: dict[str, tuple[str, str]] = {
    "a month that no calendar has": (
        "train: {steps: 2001-99-99}",
        r"r\.yaml: not valid YAML \(month must be",
    ),
    "a date for a name": ("2001-99-99: 1", r"r\.yaml: not valid YAML"),
    "a number without end": (f"train: {{steps: {'9' * 6000}}}", r"r\.yaml: not valid YAML"),
    "a hexadecimal number without end": (
        f"train: {{steps: 0x{'f' * 6000}}}",
        r"r\.yaml: holds a whole number of more than",
    ),
    "a sexagesimal number without end": (
        f"train: {{steps: 1{':59' * 3000}}}",
        r"r\.yaml: holds a whole number of more than",
    ),
    "depth": ("source: " + "[" * 300 + "]" * 300, r"r\.yaml: nests more than"),
    "a tag of Python's": ("train: !!python/object/apply:os.getcwd []", r"r\.yaml:1: not valid YAML"),
    "too much": ("a: 1\n" * 600_000, r"r\.yaml: has 3,000,000 characters, and newleaf reads at most"),
    "itself": ("train: &t {steps: *t}", r"r\.yaml: nests more than"),
    "itself in a list": ("source: &s [*s]", r"r\.yaml: nests more than"),
    "bytes": ("source: !!binary aGVsbG8=", r"source: must be text"),
    "a number beyond a float": (f"optimizer: {{clip: {'9' * 400}}}", r"optimizer\.clip: must be a number"),
    "no number": ("optimizer: {learning_rate: .nan}", r"optimizer\.learning_rate: must be a number"),
    "infinity": ("optimizer: {learning_rate: .inf}", r"optimizer\.learning_rate: must be a number"),
    "steps without end": ("train: {steps: 1e300}", r"train\.steps: .* is too large"),
    "a seed without end": (f"train: {{seed: {10**29}}}", r"train\.seed: .* is too large"),
    "a batch without end": ("train: {batch_size: 1000000000000}", r"train\.batch_size: .* are too many"),
}


@pytest.mark.parametrize("case", WRONG_RECIPES)
def test_a_recipe_that_is_none_is_one_short_line(case: str, tmp_path: Path) -> None:
    text, said = WRONG_RECIPES[case]
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        build(PretrainConfig, read_recipe(tmp_path / "r.yaml"))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_micro_batch_that_does_not_divide_a_chosen_batch_is_named() -> None:
    with pytest.raises(InputError, match=r"train\.micro_batch_size: 5 does not divide batch_size = 16"):
        with_batch_size(TrainConfig(micro_batch_size=5, batch_size=0), 16)


def test_a_network_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    with pytest.raises(
        InputError, match=r"model: a network of .* weights takes .* in fp32, and this machine has"
    ):
        check_size(GPTConfig(vocab_size=300, n_embd=10**12, n_layer=1, n_head=1, context_length=8), 1)


@pytest.mark.parametrize("name", ["meta", "../x", "cuda:99"])
def test_a_device_that_holds_no_numbers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be used here"):
        pick_device(name)


def test_a_date_is_text_where_text_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("source: 2001-01-01")
    assert build(PretrainConfig, read_recipe(tmp_path / "r.yaml")).source == ("2001-01-01",)


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("3m", 180), ("1h30m", 5400), ("0.5m", 30), (45, 45)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value
