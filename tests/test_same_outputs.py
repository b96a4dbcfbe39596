"""The check that a refactoring changes no output: what it calls a difference, and what it leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tools.same_outputs.compare import differences
from tools.same_outputs.digest import file_digest, folder_digest, kept, tensor_digest, without_folder
from tools.same_outputs.models import FAMILIES, make_model

ROOT = Path(__file__).parents[1]


def places(old: Any, new: Any, tolerance: float = 0.0) -> list[str]:
    return [each.place for each in differences(old, new, tolerance)]


def test_a_difference_is_named_by_the_way_to_it() -> None:
    old: dict[str, Any] = {"run": {"losses": [3.0, 2.5], "text": "as it was"}}
    assert places(old, {"run": {"losses": [3.0, 2.4], "text": "as it was"}}) == ["run/losses/1"]
    assert [str(each) for each in differences(old, {"run": {"losses": [3.0, 2.5], "text": "as it is"}})] == [
        "run/text: 'as it was' → 'as it is'"
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": 1}, {}),
        ({}, {"a": 1}),
        ([1], [1, 2]),
        ([1, 2], [1]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (1, 1.0),
        (0, False),
        ("", None),
    ],
)
def test_what_is_missing_moved_or_of_another_type_differs(old: Any, new: Any) -> None:
    assert places(old, new)
    assert not places(old, old)


def test_the_last_bit_of_a_number_counts_unless_there_is_a_tolerance() -> None:
    old, new = [0.1 + 0.2, float("nan")], [0.3, float("nan")]
    assert places(old, new) == ["/0"]
    assert places(old, new, 1e-9) == []
    assert places(["a"], ["b"], 1.0) == ["/0"]


def test_a_long_value_is_shown_from_where_it_differs() -> None:
    (found,) = differences("a" * 500 + "b", "a" * 500 + "c")
    shown = str(found)
    assert "ab'" in shown
    assert "ac'" in shown
    assert len(shown) < 150


def test_a_tensor_s_type_shape_and_every_bit_count() -> None:
    base = torch.arange(6.0)
    others = [
        base.reshape(2, 3),
        base.bfloat16(),
        base.flip(0),
        base + torch.tensor([0, 0, 0, 0, 0, 5e-7]),
        torch.zeros(0),
    ]
    assert len({tensor_digest(each) for each in [base, *others]}) == 6
    assert tensor_digest(base) == tensor_digest(torch.arange(12.0)[:6])


def test_times_versions_and_a_request_s_ids_are_left_out_but_not_sections_of_these_names() -> None:
    record = {
        "version": "1",
        "id": "chat-1",
        "newleaf": {"n_layer": 2, "version": 3},
        "tokens": [{"id": 17, "seconds": 2.0}],
    }
    assert kept(record) == {"newleaf": {"n_layer": 2}, "tokens": [{"id": 17}]}


def test_the_temporary_folder_s_path_is_left_out() -> None:
    assert without_folder({"where": ["/tmp/a/text.txt:3"], "n": 1}, "/tmp/a") == {
        "where": ["…/text.txt:3"],
        "n": 1,
    }


def test_a_folder_whose_tensors_changed_places_differs(tmp_path: Path) -> None:
    first, second = torch.randn(2, 2), torch.randn(2, 2)
    save_file({"a": first, "b": second}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"newleaf": {"version": "1"}, "n_embd": 2}', "utf-8")
    before = folder_digest(tmp_path)
    assert list(before) == ["config.json", "model.safetensors"]
    save_file({"a": second, "b": first}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"newleaf": {"version": "2"}, "n_embd": 2}', "utf-8")
    assert places(before, folder_digest(tmp_path)) == [
        f"model.safetensors/{name}" for name in ("bytes", "a", "b")
    ]
    assert file_digest(tmp_path / "config.json") == {"newleaf": {}, "n_embd": 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_s_weights_are_the_same_whatever_was_drawn_before(family: str, tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        make_model(tmp_path / str(seed), family)
        found.append(folder_digest(tmp_path / str(seed)))
    assert found[0] == found[1]


def check(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tools.same_outputs", "--threads", "1", "--only", "evaluating", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


@pytest.mark.slow
def test_the_check_agrees_with_itself_and_names_what_changed(tmp_path: Path) -> None:
    saved = tmp_path / "before.json"
    assert check("--out", str(saved)).returncode == 0
    record = json.loads(saved.read_text("utf-8"))
    record["parts"]["evaluating"]["small"]["tasks"]["hellaswag"]["acc"] += 0.01
    saved.write_text(json.dumps(record), "utf-8")
    found = check("--against", str(saved))
    assert found.returncode == 1, found.stderr
    assert found.stdout.splitlines()[0].startswith("evaluating/small/tasks/hellaswag/acc: ")
    assert found.stdout.splitlines()[1] == "1 differences in evaluating"
