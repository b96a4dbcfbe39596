"""A request from prompt to text: written as it comes, or the best of several, or by beam search."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from newleaf.generate.beam_search import search
from newleaf.generate.constraints import Grammars
from newleaf.generate.guidance import GuidedRunner
from newleaf.generate.options import SamplingConfig
from newleaf.generate.runner import PlainRunner, Runner, pick_runner
from newleaf.generate.samples import Piece, Sample, prompt_ids, run, start
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer


def write(
    network: GPT,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    config: SamplingConfig,
    grammars: Grammars | None = None,
    runner: Runner | None = None,
    first: int = 0,
    ends: Collection[int] = (),
    cache: torch.dtype | None = None,
) -> Iterator[Piece]:
    """Write `config.n` continuations of a prompt, or of each of several side by side, as pieces of text.

    An empty prompt starts from the beginning-of-text token. When the context is full, the later half is read again and writing goes on.
    `runner` takes the place of the network itself for one prompt without beams and guidance. `first` numbers the first
    prompt: with a seed, prompt 7 draws the same numbers whatever it is written with. `ends` are
    tokens that end a text, beside the tokenizer's own. `cache` is the type of keys and values, None for the network's own.

    Raises InputError when a prompt leaves no room for a token, and for options that do not fit the tokenizer.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    limit = network.config.context_length
    texts = [prompt_ids(tokenizer, prompt, config, limit) for prompt in prompts]
    samples = start(tokenizer, texts, config, grammars or Grammars(tokenizer), config.best_of or config.n, first, ends, context=limit)
    if config.echo:
        for place, (prompt, ids) in enumerate(zip(prompts, texts, strict=True)):
            kept = prompt if config.truncate is None else tokenizer.decode(ids)
            yield from (Piece(number, kept, prompt=place) for number in range(config.n))
    if config.beams > 1 or config.guidance_scale != 1:
        for place, ids in enumerate(texts):
            own = [sample for sample in samples if sample.prompt == place]
            yield from _write_one(_runner(network, tokenizer, ids, config, cache), tokenizer, own, config)
    else:
        alone = runner if runner is not None and len(texts) == 1 else PlainRunner(network, cache)
        yield from _write_some(alone, tokenizer, samples, config)


def _runner(network: GPT, tokenizer: Tokenizer, ids: Sequence[int], config: SamplingConfig, cache: torch.dtype | None) -> Runner:
    if config.guidance_scale == 1:
        return pick_runner(network, config.beams, cache)
    prompt = config.negative_prompt
    negative = ids[-1:] if prompt is None else prompt_ids(tokenizer, prompt, config, network.config.context_length)
    return GuidedRunner(PlainRunner(network, cache), PlainRunner(network, cache), negative, len(ids), config.guidance_scale)


def _write_one(runner: Runner, tokenizer: Tokenizer, samples: Sequence[Sample], config: SamplingConfig) -> Iterator[Piece]:
    if config.beams == 1:
        yield from _write_some(runner, tokenizer, samples, config)
        return
    for sample, found in zip(samples, search(runner, tokenizer, samples[0].row), strict=False):
        sample.row.constraint = None  # the search has minded it
        text = "".join(sample.take(token) for token in found.ids)
        text += "" if sample.end else sample.finish(found.end)
        yield Piece(sample.number, text, found.end, prompt=sample.prompt, rank=found.score, past_context=sample.past_context)


def _write_some(runner: Runner, tokenizer: Tokenizer, samples: Sequence[Sample], config: SamplingConfig) -> Iterator[Piece]:
    if config.best_of is None:
        yield from run(runner, samples, tokenizer)
        return
    pieces = list(run(runner, samples, tokenizer, scored=True))
    for prompt in sorted({sample.prompt for sample in samples}):
        ranked = sorted((sample for sample in samples if sample.prompt == prompt), key=lambda sample: -sample.mean_logprob)
        for number, sample in enumerate(ranked[: config.n]):
            own = [piece for piece in pieces if (piece.prompt, piece.sample) == (prompt, sample.number)]
            scores = tuple(found for piece in own for found in piece.scores)
            text = "".join(piece.text for piece in own)
            yield Piece(number, text, sample.end, scores, prompt, sample.mean_logprob, sample.past_context)
