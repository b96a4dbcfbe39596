"""The commands and the Python of the page on evaluating run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from small_tasks import save_tiny_classifier, tiny_classifier, tiny_model
from test_docs import ROOT, commands, run


def test_the_commands_and_python_of_the_page_on_evaluating_run(
    tmp_path: Path, data_dir: Path, book: Path, tiny_tokenizer: Any
) -> None:
    shutil.copytree(data_dir, tmp_path / "eval")
    (tmp_path / "book.txt").write_text(book.read_text("utf-8")[:3000], "utf-8")
    for seed, name in enumerate(("book", "older")):
        tiny_model(tiny_tokenizer, seed).save(tmp_path / "runs" / name)
    for seed, name in enumerate(("reviews", "reviews-2")):
        save_tiny_classifier(tiny_classifier(tiny_tokenizer, seed=seed), tmp_path / "runs" / name)
    (tmp_path / "test.csv").write_text("text,label\na fine day,good\nrain,bad\n", "utf-8")
    (tmp_path / "stars.csv").write_text("body,stars\na fine day,good\nrain,bad\n", "utf-8")
    found = commands("docs/evaluate.md")
    assert len(found) == 4
    for line in found:
        run(["-m", *shlex.split(line)], tmp_path)
    assert {"results.json", "report.md", "results.csv", "results.png", "answers"} <= {
        path.name for path in (tmp_path / "results").iterdir()
    }
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "evaluate.md").read_text("utf-8"), re.DOTALL
    )
    run(["-c", block], tmp_path)
