"""The recipes for conversations and preferences train a small model, and the command line refuses bad rows
with code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_data import FAST, WORDS, base_model, preferences, talks, write_rows

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {**FAST, "eval_windows": 4}


def tune(recipe: str, tmp_path: Path, *source: Path, **options: Any) -> newleaf.Run:
    base = base_model(tmp_path / "base", context_length=256)
    return newleaf.finetune(
        base,
        *source,
        config=RECIPES / recipe,
        out=tmp_path / "run",
        quiet=True,
        steps=2,
        train=SMALL,
        **options,
    )


def test_the_recipe_for_chat_learns_from_the_standard_library(tmp_path: Path) -> None:
    run = tune("chat-small.yaml", tmp_path, data={"limit": 30, "validation_limit": 4})
    assert run.config["source"] == ["newleaf:stdlib-chat"]
    assert {sample["prompt"] for sample in run.samples} == {
        "What does `textwrap.dedent` do?",
        "How do I call `shutil.copyfile`?",
    }


def test_the_recipe_for_translating_measures_bleu_before_and_after(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    rows = [{"prompt": word, "references": [said, said.upper()]} for word, said in WORDS.items()]
    run = tune("translate-small.yaml", tmp_path, write_rows(tmp_path / "rows.jsonl", rows))
    assert next(line["step"] for line in run.metrics if "val_bleu" in line) == 0
    assert "val_bleu" in run.summary


def test_the_recipe_for_summaries_measures_rouge(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    rows = [{"text": f"{word} is {said}", "summary": said} for word, said in WORDS.items()]
    run = tune(
        "summarise-small.yaml",
        tmp_path,
        write_rows(tmp_path / "rows.jsonl", rows),
        chat={"length": 128, "max_tokens": 4},
    )
    assert {"val_rougeL", "val_rouge1", "val_rouge2"} <= run.summary.keys()


def test_the_recipe_for_preferences_runs(tmp_path: Path) -> None:
    assert "val_accuracy" in tune("dpo-small.yaml", tmp_path, preferences(tmp_path / "pairs.jsonl")).summary


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    talks(tmp_path / "talks.jsonl", 12)
    preferences(tmp_path / "pairs.jsonl", 8)
    base_model(tmp_path / "runs" / "book")
    page = (RECIPES.parent / "docs" / "chat-tuning.md").read_text("utf-8")
    lines = [line for line in page.split("```")[1].splitlines() if line]
    assert [line.split(" --task ")[1].split()[0] for line in lines] == ["chat", "preference", "distil"]
    for line in lines:
        if "distil" in line:  # a student with the teacher's tokens: the teacher itself, drawn anew
            line = line.replace("runs/small", "runs/chat") + " --base.fresh"
        assert main([*line.split()[1:], "--steps", "1", "--threads", "1", "--quiet"]) == 0


def test_the_command_ends_with_code_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": [{"role": "robot", "content": "x"}]}])
    words = [
        "finetune",
        base_model(tmp_path / "base"),
        rows,
        "--task",
        "chat",
        "--out",
        tmp_path / "run",
        "--steps",
        "1",
        "--quiet",
    ]
    assert main(list(map(str, words))) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "robot" in line]
    assert "rows.jsonl:1: messages[0].role: 'robot' is not one of" in line


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_a_recipe_fits_a_context_of_128_or_says_which_base_it_wants(recipe: str) -> None:
    text = (RECIPES / recipe).read_text("utf-8")
    values = yaml.safe_load(text)
    lengths = [
        section["length"] for section in values.values() if isinstance(section, dict) and "length" in section
    ]
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for length in lengths:
        assert length <= 128 or f"The base needs a context of {length} tokens" in comments


@pytest.mark.parametrize("recipe", ["chat-small.yaml", "dpo-small.yaml", "translate-small.yaml"])
def test_the_recipes_for_small_models_run_in_a_context_of_128(recipe: str, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", context_length=128)
    rows = [{"prompt": word, "references": [said]} for word, said in WORDS.items()]
    source = {
        "chat-small.yaml": (),
        "dpo-small.yaml": (preferences(tmp_path / "pairs.jsonl"),),
        "translate-small.yaml": (write_rows(tmp_path / "rows.jsonl", rows),),
    }[recipe]
    limits: dict[str, Any] = (
        {"data": {"limit": 60, "validation_limit": 8}} if recipe == "chat-small.yaml" else {}
    )
    run = newleaf.finetune(
        base,
        *source,
        config=RECIPES / recipe,
        out=tmp_path / "run",
        quiet=True,
        steps=1,
        train=SMALL,
        **limits,
    )
    assert run.summary["steps"] == 1


def test_a_base_that_is_too_short_for_a_recipe_is_told_what_to_do(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", context_length=128)
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"text": word, "summary": said} for word, said in WORDS.items()]
    )
    with pytest.raises(
        InputError, match=r"chat\.length: 512 is beyond the model's context of 128 tokens; .*--chat\.length 0"
    ):
        newleaf.finetune(
            base, rows, config=RECIPES / "summarise-small.yaml", out=tmp_path / "run", quiet=True, steps=1
        )
