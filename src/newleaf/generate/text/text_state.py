"""The state of a text being generated: tokens in, certain text out, until a stop, its end or the limit."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from newleaf.errors import InputError, NotFiniteError
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.logprobs import TokenScore, score
from newleaf.generate.sampling.sampler import NO_TOKEN_ALLOWED, OVERFLOW, SamplerRow
from newleaf.generate.text.stop_strings import StopFinder
from newleaf.text.stream_decoder import StreamDecoder
from newleaf.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """Text that is certain: complete UTF-8, no prefix of a stop string. `end` is set on the last piece."""

    sample: int  # number of the text
    text: str
    # "length", "stop" (stop string or id), "end" (of text or constraint) or "stuck" (no token may follow)
    end: str | None = None
    scores: tuple[TokenScore, ...] = ()  # of the tokens since the last piece, with logprobs
    prompt: int = 0  # number of the prompt
    rank: float | None = None  # on the last piece: the score by which best_of or beam search sorted
    # on the last piece: prompt and text outgrew the context, which dropped their first tokens
    past_context: bool = False


@dataclass
class TextState:
    """One text being generated."""

    row: SamplerRow
    prompt: int  # number of the prompt
    number: int  # number of the text of this prompt
    decoder: StreamDecoder
    stops: StopFinder
    end: str | None = None
    logprob: float = 0.0
    context: int | None = None  # the network's context length
    cached: int = 0  # tokens of the prompt found in the prefix cache
    waiting: list[TokenScore] = field(default_factory=list)  # scores for the next piece

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability of a token under the network itself, by which best_of sorts."""
        return self.logprob / max(self.row.written, 1)

    @property
    def past_context(self) -> bool:
        """Whether it has ended and, with its prompt, is longer than the context."""
        return self.end is not None and self.context is not None and len(self.row.ids) > self.context

    def take(self, token: int) -> str:
        """Append a token; returns the text that is certain now. Raises NotFiniteError for OVERFLOW."""
        if token == NO_TOKEN_ALLOWED:
            return self.finish("stuck")
        if token == OVERFLOW:
            raise NotFiniteError
        self.row.take(token)
        if token in self.row.end_ids:
            return self.finish("stop" if token in self.row.config.stop_ids else "end")
        text = self.stops.push(self.decoder.push(token))
        if self.stops.found:
            self.end = "stop"
        elif self.row.constraint is not None and self.row.constraint.complete:
            text += self.finish("end")
        elif self.row.written >= self.row.config.max_tokens:
            text += self.finish("length")
        return text

    def finish(self, end: str) -> str:
        """End the text; returns its last part."""
        self.end = end
        text = self.stops.finish(self.decoder.finish())
        if self.stops.found:
            self.end = "stop"
        return text


def prompt_ids(tokenizer: Tokenizer, prompt: str, config: SamplingConfig, limit: int) -> list[int]:
    """A prompt's ids; for an empty one the beginning-of-text token.

    Raises InputError when it leaves no room in a context of `limit`.
    """
    ids = tokenizer.encode(prompt) or ([tokenizer.bos_id] if tokenizer.bos_id is not None else [])
    if not ids:
        raise InputError(
            "the prompt is empty, and this tokenizer has no beginning-of-text token to start from"
        )
    if len(ids) >= limit:
        if config.truncate is None:
            advice = "shorten it, or cut its beginning off with truncate=left"
            raise InputError(
                f"the prompt has {len(ids)} tokens and leaves no room to write: the context is {limit}; "
                f"{advice}"
            )
        ids = ids[-max(limit - config.max_tokens, limit // 2) :]
    return ids


def start_texts(
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    grammars: GrammarCompiler,
    count: int,
    first: int = 0,
    ends: Collection[int] = (),
    shown: Mapping[int, str] | None = None,
    context: int | None = None,
) -> list[TextState]:
    """New texts, `count` for each prompt (ids). `first` is the number of the first prompt among all.

    `ends` are the tokens that end a text, by default the tokenizer's end-of-text token. `shown` are special
    tokens that become text. `context` is the network's context length.

    Raises InputError for ids that the tokenizer does not have, and for invalid constraints.
    """
    for name, ids in config.ids.items():
        for token in ids:
            if token >= tokenizer.vocab_size:
                raise InputError(
                    f"{name}: there is no token {token}; the ids of this model end at "
                    f"{tokenizer.vocab_size - 1}"
                )
    seed = config.seed if config.seed is not None else secrets.randbits(62)
    own_end = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
    all_ends = frozenset(config.stop_ids) | (frozenset(ends) or frozenset(own_end))
    constraint = grammars.compile(config)
    keeps_utf8 = config.valid_utf8 == "always" or (config.valid_utf8 == "sampled" and config.temperature > 0)
    utf8 = tokenizer.utf8 if keeps_utf8 else None
    samples = []
    for place, prompt in enumerate(prompts):
        for number in range(count):
            own = constraint.fork() if constraint is not None else None
            row = SamplerRow(
                config, list(prompt), len(prompt), seed, ((first + place) << 32) + number, all_ends, own, utf8
            )
            row.partial = utf8.begun(prompt) if utf8 is not None else b""
            # A constrained text keeps its leading space, even where nothing comes before it.
            decoder = tokenizer.stream_decoder(shown, after=prompt, inside=own is not None)
            samples.append(TextState(row, place, number, decoder, StopFinder(config.stop), context=context))
    return samples


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sampling is little work, and more threads would compete with the executor's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def add_scores(logits: Tensor, samples: Sequence[TextState], tokens: Sequence[int], known: int) -> None:
    """Add each token's log-probability to its text; `known` is the tokenizer's size."""
    top = max(sample.row.config.logprobs or 0 for sample in samples)
    for sample, token, found in zip(
        samples, tokens, score(logits, [max(token, 0) for token in tokens], top, known), strict=True
    ):
        if token >= 0:
            sample.logprob += found.logprob or 0.0
            if sample.row.config.logprobs is not None:
                sample.waiting.append(
                    TokenScore(found.id, found.logprob, found.top[: sample.row.config.logprobs])
                )
