"""Generating for every prompt of a file, into a file of JSON lines that a second start continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from newleaf.errors import InputError
from newleaf.generate.batch.output_settings import begin_output, settings_of
from newleaf.generate.batch.prompt_file import Prompt, add_lines, batches, read_prompts
from newleaf.generate.options import SamplingConfig
from newleaf.generate.text.completion import collect, log_past_context
from newleaf.generate.text.text_state import Piece, prompt_ids
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

Generate = Callable[[Sequence[str], int], Iterator[Piece]]  # texts of a batch, and the number of the first
Progress = Callable[[int, int], None]  # prompts done, and of how many


def generate_file(
    prompts: Path,
    out: Path,
    config: SamplingConfig,
    network: GPT,
    tokenizer: Tokenizer,
    generate: Generate,
    batch: int,
    on_progress: Progress | None,
    overwrite: bool,
) -> int:
    """Continue every prompt as `Model.generate_file` says; returns how many were continued now."""
    context, rows = network.config.context_length, read_prompts(prompts)
    if batch < 1:
        raise InputError(f"batch: must be at least 1, not {batch}")
    _check_prompts(rows, config, tokenizer, context)
    done = begin_output(out, rows, settings_of(network, tokenizer.fingerprint, config), overwrite)
    past_context = 0
    for first, some in batches(rows, done, batch):
        if on_progress is not None:
            on_progress(first, len(rows))
        texts = collect(generate([row.text for row in some], first), len(some))
        add_lines(out, some, texts)
        past_context += sum(text.past_context for each in texts for text in each)
    log_past_context(past_context, context)
    return len(rows) - done


def _check_prompts(
    rows: Sequence[Prompt], config: SamplingConfig, tokenizer: Tokenizer, context: int
) -> None:
    """Raises InputError, naming the line, for a prompt that does not fit."""
    for row in rows:
        try:
            prompt_ids(tokenizer, row.text, config, context)
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from None
