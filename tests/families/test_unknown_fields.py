"""Unknown fields of a config.json are named once and ignored, as stock transformers ignores them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import newleaf
from newleaf.cli.main import main
from newleaf.storage.convert_model import convert
from newleaf.storage.model_info import model_info

FOREIGN = {
    "unsloth_version": "2025.1",
    "auto_map": {"AutoModel": "x.Y"},
    "a_field_of_tomorrow": 3,
    "ui\x1b[2J": "escape",
}


@pytest.fixture
def folder(make: Callable[[str, Path], Any], tmp_path: Path) -> Path:
    _, path = make("llama", tmp_path / "m")
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps(values | FOREIGN | {"max_length": 77, "unsloth_fixed": False, "nothing": None})
    )
    return path


def test_an_unknown_field_is_named_once_on_opening_and_changes_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "newleaf"):
        model = newleaf.load(folder)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "newleaf"]
    assert line.endswith(
        "ignored, since newleaf does not know them: unsloth_version, auto_map, a_field_of_tomorrow, "
        "ui\N{REPLACEMENT CHARACTER}[2J"
    )
    ids = torch.arange(20)[None]
    with torch.no_grad():
        stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(model.network(ids), stock(ids).logits, atol=1e-4, rtol=1e-4)


def test_info_names_unknown_fields_and_a_copy_has_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_info(folder)["ignored_fields"] == list(FOREIGN)
    assert main(["info", str(folder)]) == 0
    assert "unsloth_version, auto_map" in capsys.readouterr().out
    convert(folder, tmp_path / "copy")
    assert "ignored_fields" not in model_info(tmp_path / "copy")


@pytest.mark.parametrize(
    "case", ["gpt1", "gpt2", "gpt_neo", "gpt3", "gptj", "gpt_neox", "gpt_oss", "qwen3", "llama"]
)
def test_what_stock_transformers_writes_has_no_field_that_is_unknown(
    case: str, make: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    _, path = make(case, tmp_path / "m")
    assert "ignored_fields" not in model_info(path)


def test_every_field_of_a_stock_configuration_is_read_or_known_to_have_no_effect(
    cases: dict[str, Any],
) -> None:
    from newleaf.families import family_of

    for kind, fields in cases.values():
        values = kind(vocab_size=300, **fields).to_dict()
        assert family_of(values).unknown_fields(values) == []
