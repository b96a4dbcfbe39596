"""Speed as a task: tokens a second, writing greedily after a short prompt and reading a long one, as
benchmarks/decode.py measures it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.statistics import Estimate
from newleaf.evaluation.task import Setting
from newleaf.generate.backend.executor import Executor, TokenChunk
from newleaf.generate.backend.lazy_lowering import open_executor

PROMPT, NEW, LONG = 32, 128, 512
REPEATS = 5


def run_speed(
    subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
) -> TaskResult:
    """`tokens_per_second` of one text being written and `prompt_tokens_per_second` of a fresh prompt being
    read: the median of five, and the slowest and fastest as the interval's ends."""
    if not isinstance(subject, LocalModel):
        raise InputError(
            "speed: is measured on a local model; for an address, see python -m benchmarks.serving_engine"
        )
    begun, limit = time.monotonic(), subject.context_length
    new, long = min(NEW, limit // 2), min(LONG, limit - 1)
    prompt = min(PROMPT, limit - new - 1)
    if prompt < 1:
        raise InputError(f"speed: a context of {limit} tokens is too short to measure")
    slots = open_executor(subject.network, 1, None, cache=subject.cache, lower_at_once=True)
    writing: list[float] = []
    reading: list[float] = []
    generator = torch.Generator().manual_seed(setting.seed)
    for repeat in range(REPEATS + 1):  # the first one warms up
        progress("speed", repeat, REPEATS + 1)
        ids = torch.randint(0, subject.tokenizer.vocab_size, (2, long), generator=generator).tolist()
        logits = read(slots, ids[0][:prompt])
        start = time.perf_counter()
        for place in range(prompt, prompt + new):
            logits = slots.run([TokenChunk(0, place, [int(logits[0].argmax())], 1)])
        writing.append(new / (time.perf_counter() - start))
        slots.release(0)
        start = time.perf_counter()
        read(slots, ids[1])
        reading.append(long / (time.perf_counter() - start))
        slots.release(0)
    scores = {"tokens_per_second": _estimate(writing[1:]), "prompt_tokens_per_second": _estimate(reading[1:])}
    shape = {"prompt": prompt, "new_tokens": new, "long_prompt": long, "threads": torch.get_num_threads()}
    return TaskResult("speed", scores, setting=shape, seconds=time.monotonic() - begun, asked=REPEATS)


def read(slots: Executor, ids: list[int]) -> Tensor:
    """Read a text into the first slot, as many tokens a round as the engine would; logits [1, V] after the
    last."""
    for first in range(0, len(ids), slots.rows):
        part = ids[first : first + slots.rows]
        logits = slots.run([TokenChunk(0, first, part, int(first + len(part) == len(ids)))])
    return logits


def _estimate(speeds: list[float]) -> Estimate:
    return Estimate(
        statistics.median(speeds), statistics.stdev(speeds), min(speeds), max(speeds), len(speeds)
    )
