"""The commands of README.md run as they stand, with their times turned down."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands(name: str) -> list[str]:
    # Every second part between fences is a block; those without a language are commands.
    blocks = [
        block for block in (ROOT / name).read_text("utf-8").split("```")[1::2] if block.startswith("\n")
    ]
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
    return [
        part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("newleaf ")
    ]


def test_the_readmes_commands_and_python_run(tmp_path: Path, book: Path) -> None:
    (tmp_path / "book.txt").write_bytes(book.read_bytes())
    found = commands("README.md")
    assert [line.split()[1] for line in found] == ["demo", "pretrain", "generate", "info", "runs"]
    for line in found:
        words = shlex.split(re.sub(r"--time \S+", "--time 15s", line))
        run(["-m", *words, *(["--time", "15s"] if words[1] == "demo" else [])], tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        run(["-c", re.sub(r'time="\w+"', 'time="12s"', block)], tmp_path)


def test_the_commands_and_python_of_the_page_on_generation_run(tmp_path: Path, book: Path) -> None:
    import torch

    from newleaf.api import Model
    from newleaf.model import GPT, GPTConfig
    from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

    tokenizer = train_tokenizer([book.read_text("utf-8")], TokenizerConfig(), 400)
    torch.manual_seed(0)
    Model(GPT(GPTConfig(tokenizer.vocab_size, 128, 1, 2, 32)), tokenizer, "gpt2").save(
        tmp_path / "runs" / "book"
    )
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    found = commands("docs/generation.md")
    assert len(found) == 6
    for line in found:
        run(["-m", *shlex.split(line)], tmp_path)
    assert len((tmp_path / "answers.jsonl").read_text("utf-8").splitlines()) == 2
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "generation.md").read_text("utf-8"), re.DOTALL
    )
    assert len(blocks) == 2
    run(["-c", "\n".join(blocks)], tmp_path)


def test_the_commands_of_the_page_on_pretraining_run(tmp_path: Path, book: Path) -> None:
    (tmp_path / "book.txt").write_bytes(book.read_bytes())
    found = commands("docs/pretraining.md")
    assert [line.split()[1] for line in found] == ["pretrain", "runs", "runs", "runs", "runs"]
    train, *show = [re.sub(r"--time \S+", "--time 12s", line) for line in found]
    run(["-m", *shlex.split(train)], tmp_path)
    for name in ("runs/a", "runs/b", "experiments/a"):
        shutil.copytree(tmp_path / "runs" / "book", tmp_path / name)
    for line in show:
        run(["-m", *shlex.split(line)], tmp_path)
    assert (tmp_path / "ab.png").stat().st_size > 0
    assert (tmp_path / "runs.png").stat().st_size > 0


def run(words: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, (words, done.stderr[-2000:])


def test_the_commands_and_python_of_the_page_on_fine_tuning_run(tmp_path: Path, book: Path) -> None:
    to_tune(tmp_path, book)
    found = commands("docs/finetune.md")
    assert [line.split()[1] for line in found] == ["finetune", "finetune", "classify"]
    for line in found:
        run(["-m", *shlex.split(line), *(["--steps", "3"] if " finetune " in line else [])], tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "finetune.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2
    run(["-c", "\n".join(blocks).replace("epochs=3", "steps=3")], tmp_path)


def to_tune(folder: Path, book: Path) -> None:
    """A small model in runs/book, a text and labelled rows."""
    import json

    import torch

    from newleaf.api import Model
    from newleaf.model import GPT, GPTConfig
    from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

    tokenizer = train_tokenizer([book.read_text("utf-8")], TokenizerConfig(), 400)
    torch.manual_seed(0)
    Model(GPT(GPTConfig(tokenizer.vocab_size, 128, 1, 2, 32)), tokenizer, "gpt2").save(
        folder / "runs" / "book"
    )
    (folder / "chapters.txt").write_bytes(book.read_bytes()[:9000])
    rows = [{"text": f"a {('dull', 'fine')[n % 2]} film, number {n}", "label": n % 2} for n in range(80)]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TUNING = [path for path in RECIPES if re.search(r"^task:", path.read_text("utf-8"), re.MULTILINE)]


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if path not in TUNING], ids=lambda path: path.name
)
def test_every_recipe_trains_on_a_local_file_and_says_what_would_make_it_stock(
    recipe: Path, book: Path, tmp_path: Path
) -> None:
    import json

    from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

    train_tokenizer([book.read_text("utf-8")], TokenizerConfig(), 400).save(tmp_path / "tokenizer")
    options = ["--data.limit", "60"] if "gpt1" in recipe.name else []
    words = [
        "pretrain",
        book,
        "--config",
        recipe,
        "--out",
        tmp_path / "r",
        "--steps",
        "3",
        "--tokenizer.path",
        tmp_path / "tokenizer",
        *options,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "newleaf", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "model.final_norm false" in done.stderr
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["family"] == "newleaf"


@pytest.mark.parametrize("recipe", ["gpt1-classify.yaml", "gpt2-finetune.yaml", "qlora-big.yaml"])
def test_the_recipes_of_fine_tuning_tune_a_small_model(recipe: str, book: Path, tmp_path: Path) -> None:
    to_tune(tmp_path, book)
    data = "reviews.jsonl" if "classify" in recipe else "chapters.txt"
    run(
        [
            "-m",
            "newleaf",
            "finetune",
            "runs/book",
            data,
            "--config",
            str(ROOT / "recipes" / recipe),
            "--out",
            "r",
            "--steps",
            "3",
        ],
        tmp_path,
    )
