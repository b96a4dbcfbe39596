"""The demo: a GPT trained on this interpreter's own standard library, beside what a good compressor makes of
the same text."""

from __future__ import annotations

import ast
import hashlib
import lzma
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf import api
from newleaf.data.corpus_cache import cache_key, cached_directory, default_cache_directory
from newleaf.data.stdlib_corpus import standard_library_files
from newleaf.errors import Stopped
from newleaf.generate.options import TextOptions
from newleaf.recipe import merge, seconds
from newleaf.train.display.monitor import Monitor

HEADERS = ("def read_lines(path):\n", "def __init__(self, name, value=None):\n", "def main(args=None):\n")
SAMPLING: TextOptions = {"max_tokens": 100, "temperature": 0.5, "top_p": 0.95, "stop": ["\ndef ", "\nclass "]}
TRIES = 10  # completions of each header whose syntax is checked
AFTERWARDS = 0.04  # of the time, for those completions and the table


@dataclass(frozen=True)
class Report:
    """What the demo found out."""

    run: api.Run
    before: dict[str, str]  # header → completion by the untrained network
    after: dict[str, str]
    bits_per_byte: float
    xz_alone: float  # bits per byte of the held-out files
    xz_after_training_text: float  # the same, having seen the training text
    parsed: int
    completions: int


def demo(time: str, out: str | Path, started: float, monitor: Monitor, **options: Any) -> Report:
    """Train on the standard library so that the whole command takes `time`, and report. Raises InputError."""
    train_files, held_out = standard_library_files()
    monitor.say(
        f"Text: Python's own standard library, {len(train_files)} files to learn from and {len(held_out)} "
        f"held out."
    )
    monitor.stage("measuring what xz makes of it", 0, None)
    alone, after = xz_bits_per_byte(train_files, held_out)
    run = api.pretrain(
        *train_files,
        out=out,
        overwrite=True,
        started=started,
        monitor=monitor,
        time=f"{seconds(time) * (1 - AFTERWARDS):.3f}s",
        data={"validation": tuple(str(path) for path in held_out)},
        **merge({"train": {"prompts": HEADERS, "sample": SAMPLING}}, options),
    )
    if not run.summary:
        raise Stopped("stopped before the first step")
    monitor.stage("writing", 0, None)
    model = run.model
    sampling: TextOptions = {**SAMPLING, "seed": 1}
    texts = {header: model.generate(header, n=TRIES, **sampling) for header in HEADERS}
    written = [header + text for header, each in texts.items() for text in each]
    before = {line["prompt"]: line["sample"] for line in run.samples if line["step"] == 0}
    return Report(
        run=run,
        before={header: before.get(header, "") for header in HEADERS},
        after={header: each[0] for header, each in texts.items()},
        bits_per_byte=run.summary["val_bits_per_byte"],
        xz_alone=alone,
        xz_after_training_text=after,
        parsed=sum(parses(text) for text in written),
        completions=len(written),
    )


def parses(text: str) -> bool:
    """Whether `ast.parse` accepts the whole lines of a completed function; what follows the last line end was
    cut by the token limit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings are not what is asked
            ast.parse(text[: text.rfind("\n") + 1])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def xz_bits_per_byte(train_files: Iterable[Path], held_out: Iterable[Path]) -> tuple[float, float]:
    """What `xz -9e` needs for the held-out files: alone, and after having seen the training files; bits per
    byte."""
    train, test = (b"".join(path.read_bytes() for path in files) for files in (train_files, held_out))
    key = cache_key("xz", len(train), hashlib.blake2b(train + test, digest_size=16).hexdigest())

    def measure(fresh: Path) -> dict[str, Any]:
        alone = _xz(test)
        both = _xz(train + test)
        return {
            "alone": 8 * len(alone) / len(test),
            "after": 8 * (len(both) - _size_of_prefix(both, len(train))) / len(test),
        }

    found, _ = cached_directory(default_cache_directory() / "xz" / key, measure)
    return found["alone"], found["after"]


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)


def _size_of_prefix(packed: bytes, length: int) -> int:
    """How many bytes of an xz stream it takes to get back the first `length` bytes."""
    decoder, produced, fed, size = lzma.LZMADecompressor(), 0, 0, 256
    while produced < length:
        produced += len(decoder.decompress(packed[fed : fed + size]))
        fed += size
    return min(fed, len(packed))
