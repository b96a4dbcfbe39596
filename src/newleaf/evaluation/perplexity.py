"""Text as a task: bits per byte, perplexity per token and per word, of each document and of all, beside
xz."""

from __future__ import annotations

import hashlib
import lzma
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from newleaf.data.bad_documents import BadDocumentError, Problems
from newleaf.data.data_config import DataConfig
from newleaf.data.documents import documents
from newleaf.data.sources import resolve_sources
from newleaf.data.token_shards import token_byte_lengths
from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.sample_log import Sample, SampleLog
from newleaf.evaluation.task import Item, Marks, Metric, RowFields, Setting
from newleaf.evaluation.text_units import PART, units
from newleaf.measure.loglikelihood import Tree, score_trees
from newleaf.text.tokenizer import Tokenizer

# bytes of a word on average, beyond which white space does not part a text into words
MAX_MEAN_WORD_BYTES = 40
# bytes of a text below which a compressor's figure says more of its tables than of the text
MIN_BYTES_TO_COMPRESS = 1000
MAX_DOCUMENTS_LISTED = 100  # documents that results.json lists; all are among the answers
BITS = Metric("bits_per_byte", "bits", weight="bytes", higher_is_better=False)
PER_TOKEN = Metric("perplexity", "nats", weight="tokens", finish="exp", higher_is_better=False)
PER_WORD = Metric("word_perplexity", "nats", weight="words", finish="exp", higher_is_better=False)


@dataclass
class _CollectedProblems(Problems):
    """Problems that are listed and do not stop the work."""

    all: list[str] = field(default_factory=list)

    def bad(self, problem: BadDocumentError) -> None:
        self.all.append(str(problem))


@dataclass(frozen=True)
class _Text:
    where: str
    text: str

    @property
    def item(self) -> Item:
        return Item(
            self.where, "blake2b " + hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest(), None
        )


@dataclass(frozen=True)
class _Window:
    """Tokens of a document that are predicted together, and the bytes they stand for."""

    document: int
    tree: Tree
    bytes: int


def read_documents(
    source: str | Path, limit: int | None = None, fields: RowFields | None = None
) -> tuple[list[tuple[str, str]], list[str]]:
    """(where, text) of each document of a file, folder or glob, and what cannot be read. Raises InputError
    when nothing can."""
    problems = _CollectedProblems(on_error="skip")
    found: list[tuple[str, str]] = []
    fields = fields or RowFields()
    config = DataConfig(fields.field or "text", fields.encoding, fields.document or "file")
    for document in documents(resolve_sources([source]), config, problems):
        try:
            text = "".join(document.pieces)
        except BadDocumentError as problem:
            problems.bad(problem)
            continue
        if text:
            found.append((document.name, text))
        else:
            problems.all.append(f"{document.name}: is empty")
        if limit is not None and len(found) == limit:
            break
    if not found:
        raise InputError(problems.all[0] if problems.all else f"{source}: holds no text")
    return found, problems.all


def windows(ids: Sequence[int], length: int, stride: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """What is read and what is predicted, so that each id after the first is predicted once: window k reads
    ids kS … kS + T - 1 and predicts those of its next ids that no earlier one has."""
    done = 0
    for start in range(0, len(ids), stride):
        end = min(len(ids) - 1, start + length)
        if end > done:
            yield ids[start : done + 1], ids[done + 1 : end + 1]
            done = end


def run_text(
    source: Path, subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
) -> TaskResult:
    """The scores of a text. With one document the interval is over its windows, otherwise over documents.
    Raises InputError for an address, which does not say how likely texts longer than its context are."""
    if not isinstance(subject, LocalModel):
        raise InputError(f"{source}: text is scored with a local model; {subject.name} is an address")
    length = subject.context_length
    stride = setting.stride or length
    if not 1 <= stride <= length:
        raise InputError(f"stride: must be 1 to {length}, the model's context, not {stride}")
    begun = time.monotonic()
    found, problems = read_documents(source, setting.limit, setting.data)
    texts = [_Text(*each) for each in found]
    name = source.stem or str(source)
    with SampleLog(journal, [subject.fingerprint, "text", stride]) as kept:
        answered = [kept.find(text.item) for text in texts]
        todo = [number for number, each in enumerate(answered) if each is None]
        for place, done in _score(subject, [texts[number] for number in todo], stride, name, progress):
            answered[todo[place]] = done
            if done.refused is None:
                kept.add(texts[todo[place]].item, done)
        pairs = [(text, each) for text, each in zip(texts, answered, strict=True) if each is not None]
        kept.finish([text.item for text, _ in pairs], [each for _, each in pairs])
    problems += [f"{text.where}: {each.refused}" for text, each in pairs if each.refused]
    complete = [each for _, each in pairs if not each.refused]
    texts = [text for text, each in pairs if not each.refused]
    if not complete:
        raise InputError(problems[-1])
    lossless = subject.tokenizer.lossless or all(_comes_back(subject.tokenizer, text.text) for text in texts)
    if not lossless:
        problems.append(
            f"{source}: no bits per byte, since this tokenizer does not give the text back exactly"
        )
    marks = [each.marks for each in complete]
    parts = [[dict(zip(PART, window, strict=True)) for window in each.answer] for each in complete]
    words, size = (sum(each[name] for each in marks) for name in ("words", "bytes"))
    worded = size <= MAX_MEAN_WORD_BYTES * words
    if not worded:
        problems.append(
            f"{source}: no perplexity per word, since white space does not part this text into words"
        )
    result = TaskResult(
        name,
        {},
        ((BITS,) if lossless else ()) + (PER_TOKEN,) + ((PER_WORD,) if worded else ()),
        left_out=problems,
        setting={"file": str(source), "stride": stride, "context_length": length},
        seconds=time.monotonic() - begun,
        wheres=[text.where for text in texts],
        marks=marks,
        asked=len(todo),
        parts=parts,
    )
    over, block = units(marks, parts)
    scores = {
        measure.name: measure.of(over, block)
        for measure in result.measures
        if sum(each[str(measure.weight)] for each in over) > 0
    }
    return replace(result, scores=scores, extra=_extra(texts, marks))


def _comes_back(tokenizer: Tokenizer, text: str) -> bool:
    """Whether this very text does, whatever the tokenizer's parts promise."""
    return tokenizer.decode(tokenizer.encode(text, special_tokens=False)) == text


def _extra(texts: Sequence[_Text], marks: Sequence[Marks]) -> dict[str, Any]:
    data = "".join(text.text for text in texts).encode()
    total = {name: sum(each[name] for each in marks) for name in ("tokens", "bytes", "words")}
    listed = [
        {
            "where": text.where,
            "bits_per_byte": each["bits"] / each["bytes"],
            "perplexity": math.exp(min(700.0, each["nats"] / max(1.0, each["tokens"]))),
            "bytes": int(each["bytes"]),
        }
        for text, each in zip(texts, marks, strict=True)
    ]
    return {
        **({"xz_bits_per_byte": xz_bits(data)} if len(data) >= MIN_BYTES_TO_COMPRESS else {}),
        **{name: int(value) for name, value in total.items()},
        "documents": listed[:MAX_DOCUMENTS_LISTED],
    }


def xz_bits(data: bytes) -> float:
    """Bits per byte that `xz -9e` needs for the data itself: a file of it has a header, an index and a
    checksum besides."""
    method = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return 8 * len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=method)) / len(data)


def _score(
    subject: LocalModel, texts: Sequence[_Text], stride: int, name: str, progress: Progress
) -> Iterator[tuple[int, Sample]]:
    lengths = np.asarray(token_byte_lengths(subject.tokenizer))
    parts: list[_Window] = []
    ids_of = [subject.tokenizer.encode(text.text, special_tokens=False) for text in texts]
    for number, ids in enumerate(ids_of):
        stream = [subject.tokenizer.separator_id, *ids]
        for trunk, own in windows(stream, subject.context_length, stride):
            parts.append(_Window(number, Tree(trunk, [own]), int(lengths[list(own)].sum())))
    left = np.bincount([part.document for part in parts], minlength=len(texts))
    found: dict[int, dict[int, list[float]]] = {}
    for number in np.flatnonzero(left == 0).tolist():
        yield number, Sample(None, {}, "the tokenizer has no tokens for it")
    for done, (place, (score,)) in enumerate(score_trees(subject.scored, [part.tree for part in parts]), 1):
        part = parts[place]
        done_of = found.setdefault(part.document, {})
        done_of[place] = [-score.logprob, -score.logprob / math.log(2), score.tokens, part.bytes, 0.0]
        progress(name, done, len(parts))
        if len(done_of) == left[part.document]:
            yield (
                part.document,
                _answered(texts[part.document].text, [done_of[each] for each in sorted(done_of)]),
            )


def _answered(text: str, windows: list[list[float]]) -> Sample:
    words = len(text.split())
    total = [sum(column) for column in zip(*windows, strict=True)]
    for window in windows:  # a window's share of the words is that of its bytes
        window[4] = words * window[3] / max(1.0, total[3])
    marks = {
        "nats": total[0],
        "bits": total[1],
        "tokens": total[2],
        "bytes": float(len(text.encode())),
        "words": float(words),
    }
    return Sample(windows, marks)
