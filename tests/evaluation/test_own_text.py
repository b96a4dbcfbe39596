"""A run that is scored on its own training text is told so, wherever the text lies now."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import newleaf
from newleaf.evaluation.train_test_overlap import own_text_notes

SMALL: dict[str, Any] = {
    "tokenizer": {"vocab_size": 300},
    "model": {"n_layer": 1, "n_embd": 32, "n_head": 1, "head_dim": 32, "n_inner": 32, "context_length": 32},
}


def test_a_run_on_its_own_text_is_told_so(book: Path, tmp_path: Path) -> None:
    text, copy, other = tmp_path / "text.txt", tmp_path / "copy.txt", tmp_path / "other.txt"
    text.write_text(book.read_text("utf-8")[:20_000], "utf-8")
    shutil.copy(text, copy)
    other.write_text(book.read_text("utf-8")[20_000:24_000], "utf-8")
    run = newleaf.pretrain(str(text), out=tmp_path / "run", steps=1, quiet=True, **SMALL)
    found = newleaf.evaluate(str(run.path), [str(text), str(copy), str(other)], quiet=True)
    assert len(found["notes"]) == 2
    assert all(
        "was trained on this text, but for the 5 % that it held out" in note for note in found["notes"]
    )
    assert own_text_notes(run.path / "model", [copy])
    text.unlink()  # what is left is the run's fingerprint
    assert own_text_notes(run.path, [copy])
    assert not own_text_notes(run.path, [other])
    assert not own_text_notes(tmp_path, [copy])
