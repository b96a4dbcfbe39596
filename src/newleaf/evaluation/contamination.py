"""Whether a test set stood in the training text: n-grams that both have (as in GPT-3's paper, Brown et al.
2020, appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from newleaf.errors import InputError
from newleaf.evaluation.perplexity import read_documents
from newleaf.evaluation.result import TaskResult
from newleaf.evaluation.task_rows import read_rows
from newleaf.measure.text_metrics import words
from newleaf.text.tokenizer import Tokenizer

NGRAM_WORDS = 13
MIN_WORDS = 8  # words that a shorter text must have to be looked for whole


@dataclass
class Contamination:
    """Which items (file:line) have an n-gram that stands in a training text too."""

    n: int = NGRAM_WORDS
    grams: dict[str, set[str]] = field(default_factory=dict)  # n-gram → items that have it
    items: set[str] = field(default_factory=set)  # those that are long enough to be looked for
    hit: set[str] = field(default_factory=set)
    _sizes: tuple[int, ...] = ()

    def add_item(self, where: str, texts: Sequence[str]) -> None:
        """Look for the n-grams of these texts from now on; one that is a little shorter is looked for
        whole."""
        for text in texts:
            tokens = words(text)
            size = min(self.n, len(tokens))
            if size < min(MIN_WORDS, self.n):
                continue
            self.items.add(where)
            for at in range(len(tokens) - size + 1):
                self.grams.setdefault(" ".join(tokens[at : at + size]), set()).add(where)
        self._sizes = tuple({gram.count(" ") + 1 for gram in self.grams})

    def read(self, text: str) -> None:
        """Look through a part of the training text."""
        tokens = words(text)
        for size in self._sizes:
            for at in range(len(tokens) - size + 1):
                self.hit |= self.grams.get(" ".join(tokens[at : at + size]), set())

    def applied(self, task: TaskResult) -> TaskResult:
        """The task's result with the share of items that were met, and the scores of the others."""
        known = [where for where in task.wheres if where in self.items]
        if not known:
            return task
        met = {where for where in known if where in self.hit}
        clean = [marks for where, marks in zip(task.wheres, task.marks, strict=True) if where not in met]
        scores = (
            {
                measure.name: measure.of(clean).value
                for measure in task.measures
                if measure.name in task.scores
            }
            if clean
            else {}
        )
        found = {"n": self.n, "items": len(known), "contaminated": len(met), "share": len(met) / len(known)}
        return replace(
            task,
            extra=task.extra
            | {"contamination": {**found, "clean_scores": scores, "where": sorted(met)[:100]}},
        )


def check_contamination(
    results: Sequence[TaskResult], training: Sequence[str], tokenizer: Tokenizer | None, n: int = NGRAM_WORDS
) -> tuple[list[TaskResult], list[str]]:
    """The results with what of their items stands in training texts (files, folders, or folders of token
    shards, which `tokenizer` reads), and a sentence for each."""
    found = Contamination(n)
    for result in results:
        for where, texts in _texts_of(result):
            found.add_item(where, texts)
    for source in training:
        for text in _training_texts(source, tokenizer):
            found.read(text)
    applied = [found.applied(result) for result in results]
    about = [(each.task, each.extra["contamination"]) for each in applied if "contamination" in each.extra]
    notes = [
        f"{task}: {one['contaminated']:,} of {one['items']:,} items share {n} words in a row with "
        f"{', '.join(training)}"
        for task, one in about
    ]
    return applied, notes or ["contamination: no task has rows to look for"]


def _texts_of(result: TaskResult) -> Iterator[tuple[str, list[str]]]:
    """The texts of each item's row, or of each document."""
    file = result.setting.get("file")
    if file is None:
        return
    wanted = set(result.wheres)
    if str(file).endswith((".jsonl", ".jsonl.gz")) and "context_length" not in result.setting:
        for row in read_rows(Path(str(file)))[0]:
            if row.where in wanted:
                yield row.where, list(_strings(row.fields))
    else:
        for where, text in read_documents(str(file))[0]:
            if where in wanted:
                yield where, [text]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(each)


def _training_texts(source: str, tokenizer: Tokenizer | None) -> Iterator[str]:
    shard = Path(source)
    if (shard / "tokens.bin").exists():
        yield from _shard_texts(shard, tokenizer)
        return
    for _, text in read_documents(source)[0]:
        yield text


def _shard_texts(folder: Path, tokenizer: Tokenizer | None) -> Iterator[str]:
    """The documents of a token shard as newleaf pretrain keeps them in its cache."""
    if tokenizer is None:
        raise InputError(f"{folder}: token shards are read with a local model's tokenizer")
    starts = np.fromfile(folder / "starts.bin", dtype="<i8")
    width = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    tokens = np.memmap(folder / "tokens.bin", dtype=width, mode="r")
    if len(starts) == 0 or starts[-1] >= len(tokens) or int(tokens[starts[0]]) != tokenizer.separator_id:
        raise InputError(f"{folder}: is not a token shard of this model's tokenizer")
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        yield tokenizer.decode(tokens[start + 1 : end].tolist())
