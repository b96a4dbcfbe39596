"""The loop that writes: read the prompt once, then one token at a time with the cache, until a stop, the end of text or the limit."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from newleaf.errors import InputError
from newleaf.generate.runner import Runner
from newleaf.generate.sampling import SamplingConfig, choose
from newleaf.generate.stops import StopFinder
from newleaf.text.stream import StreamDecoder
from newleaf.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """Text that is certain now: complete UTF-8, and no beginning of a stop string. `sample` says whose; `end` is set on the last one."""

    sample: int
    text: str
    end: str | None = None  # "length", "stop" (a stop string) or "end" (the end-of-text token)


@dataclass
class _Sample:
    """One text being written."""

    number: int
    ids: list[int]
    decoder: StreamDecoder
    stops: StopFinder
    generator: torch.Generator
    written: int = 0
    end: str | None = None

    def take(self, token: int, config: SamplingConfig, end_id: int | None) -> str:
        """Add a token and return the text it makes certain."""
        self.ids.append(token)
        self.written += 1
        if token == end_id:
            self.end = "end"
            return self.stops.finish(self.decoder.finish())
        text = self.stops.push(self.decoder.push(token))
        if self.stops.found:
            self.end = "stop"
        elif self.written >= config.max_tokens:
            self.end = "length"
            text += self.stops.finish(self.decoder.finish())
        return text


def write(runner: Runner, tokenizer: Tokenizer, prompt: str, config: SamplingConfig, samples: int = 1) -> Iterator[Piece]:
    """Write `samples` continuations of `prompt` side by side, as pieces of text.

    An empty prompt starts from the beginning-of-text token. When the context is full, the later half is read again and writing goes on.
    Raises InputError when the prompt leaves no room for a token.
    """
    ids = tokenizer.encode(prompt) or ([tokenizer.bos_id] if tokenizer.bos_id is not None else [])
    if not ids:
        raise InputError("the prompt is empty, and this tokenizer has no beginning-of-text token to start from")
    limit = runner.config.context_length
    if len(ids) >= limit:
        raise InputError(f"the prompt has {len(ids)} tokens and leaves no room to write: the context is {limit}")
    seed = config.seed if config.seed is not None else secrets.randbits(62)
    generators = [torch.Generator().manual_seed((seed + number * 0x9E3779B97F4A7C15) % 2**63) for number in range(samples)]
    texts = [_Sample(n, list(ids), tokenizer.stream_decoder(), StopFinder(config.stop), g) for n, g in enumerate(generators)]
    yield from _run(runner, texts, config, tokenizer.eos_id, tokenizer.vocab_size)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: a row of logits is little work, and its other threads would fight with the runner's for the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(runner: Runner, texts: list[_Sample], config: SamplingConfig, end_id: int | None, known: int) -> Iterator[Piece]:
    alive, logits = texts, runner.start([text.ids for text in texts])
    while alive:
        logits[:, known:] = float("-inf")  # a network may have more rows than the tokenizer has tokens
        if end_id is not None and alive[0].written < config.min_tokens:
            logits[:, end_id] = float("-inf")
        with one_thread():
            tokens = choose(logits, [torch.tensor(text.ids) for text in alive], config, [text.generator for text in alive]).tolist()
        for text, token in zip(alive, tokens, strict=True):
            piece = text.take(token, config, end_id)
            if piece or text.end:
                yield Piece(text.number, piece, text.end)
        kept = [row for row, text in enumerate(alive) if text.end is None]
        alive = [alive[row] for row in kept]
        if alive and runner.length < runner.max_length:
            logits = runner.advance([tokens[row] for row in kept], kept)
        elif alive:
            limit = runner.config.context_length
            logits = runner.start([text.ids[-((limit + 1) // 2) :] for text in alive])
