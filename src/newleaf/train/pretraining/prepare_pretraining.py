"""Everything before the first step: machine, text, size, tokenizer, tokens."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from newleaf.data.corpus import Corpus, prepare_text
from newleaf.data.corpus_cache import cache_key, cached_directory, default_cache_directory
from newleaf.data.data_config import DataConfig
from newleaf.data.text_store import TextRange
from newleaf.data.token_shards import Shard, tokenize
from newleaf.errors import InputError
from newleaf.format_amounts import byte_size, counted
from newleaf.generate.options import SamplingConfig
from newleaf.kernels.matmul_speed import bf16_is_faster, matmul_speed
from newleaf.machine import pick_device, retain_freed_memory, use_threads
from newleaf.model import GPT, ConfigError, GPTConfig
from newleaf.model.count import count_parameters
from newleaf.recipe import build, convert_fields, plain, seconds
from newleaf.storage.hub import TOKENIZER_FILES, local_folder
from newleaf.storage.model_folder import why_not_stock
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_character_bpe import MAX_SAMPLE_CHARS, has_many_characters, tokens_for_characters
from newleaf.text.train_tokenizer import MOST_SEEN, train_tokenizer
from newleaf.train.display.monitor import Monitor
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import PretrainConfig, TrainConfig, with_batch_size
from newleaf.train.signals import interruptible
from newleaf.train.size_from_budget import Budget, DataBudget, Reason, SizeChoice, choose_size, data_budget


@dataclass(frozen=True)
class PreparedRun:
    """A run on text with nothing left open but how many windows fit into memory: its configuration (with
    sections data, optimizer and train), its text as tokens, its network's shape. `length` is that of a
    window, 0 for the whole context."""

    config: Any
    network: GPTConfig
    tokenizer: Tokenizer
    train: Shard
    validation: Shard
    fingerprints: dict[str, str]
    length: int = 0

    @property
    def window(self) -> int:
        """Tokens of a window."""
        return self.length or self.network.context_length


def prepare(config: PretrainConfig, monitor: Monitor, processes: int = 1) -> PreparedRun:
    """Everything before the first step: machine, text, size, tokenizer, tokens.

    What the configuration fixes stays as it is.

    A batch size that is chosen here can be shared by so many `processes`.
    """
    if build(SamplingConfig, config.train.sample, "train.sample.").n != 1:
        raise InputError("train.sample.n: one sample is shown for each prompt")
    config = dataclasses.replace(config, train=resolve_machine_options(config.train))
    model = convert_fields(GPTConfig, config.model, "model.")
    corpus = prepare_text(config.source, config.data, on_progress=monitor.stage)
    for sentence in describe_skipped(corpus.report):
        monitor.say(sentence)
    open_choices = len(model) < len(dataclasses.fields(GPTConfig))
    budget = _budget(config, corpus)
    config, characters = _characters(config, corpus)
    choice = choose_size(corpus.train.n_bytes, budget, config.size, characters) if open_choices else None
    config = _with_data_budget(config, corpus, budget, choice, model)
    config, tokenizer = _tokenizer(config, corpus, choice, monitor)
    network = _network(model, choice, tokenizer)
    batch = config.train.batch_size or -(-(choice.batch_size if choice else 16) // processes) * processes
    check_size(network, processes)
    train = with_batch_size(config.train, batch)
    config = dataclasses.replace(
        config,
        train=train,
        optimizer=_rates(config.optimizer, choice, model),
        model=network.to_dict(),
        size=None,
    )
    _announce(config, network, choice, corpus, monitor)
    parts = zip((corpus.train, corpus.validation), config.data.max_bytes, strict=True)
    shards = [tokenize(text, tokenizer, on_progress=monitor.stage, max_bytes=most) for text, most in parts]
    fingerprints = {"text": corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
    return PreparedRun(config, network, tokenizer, shards[0], shards[1], fingerprints)


def _rates(optimizer: OptimizerConfig, choice: SizeChoice | None, model: dict[str, Any]) -> OptimizerConfig:
    """The usual rates as the dial multiplies them.

    Other rates stay, and those of a recipe that has a size of its own.
    """
    mine, theirs = (
        (each.kind, each.learning_rate, each.matrix_learning_rate) for each in (optimizer, OptimizerConfig())
    )
    if choice is None or {"n_layer", "n_embd"} & model.keys() or mine != theirs:
        return optimizer
    adamw, muon = (round(times * rate, 6) for times, rate in zip(choice.rates, mine[1:], strict=True))
    return dataclasses.replace(optimizer, learning_rate=adamw, matrix_learning_rate=muon)


def _with_data_budget(
    config: PretrainConfig, corpus: Corpus, budget: Budget, choice: SizeChoice | None, model: dict[str, Any]
) -> PretrainConfig:
    """How much of a large text becomes tokens and is shown to the tokenizer, where the clock decides and the
    recipe does not. All of it is a choice too, which stands in run.yaml: whoever resumes the run may find the
    machine slower."""
    shape = (choice.model | {"vocab_size": choice.vocab_size} if choice else {}) | model
    found, tokenizer = (
        data_budget(budget, shape["n_layer"], shape["n_embd"], shape["vocab_size"]),
        config.tokenizer,
    )
    if tokenizer.train_bytes is None:
        seen = found.tokenizer if found is not None and corpus.train.n_bytes > found.tokenizer else MOST_SEEN
        tokenizer = dataclasses.replace(tokenizer, train_bytes=seen)
    return dataclasses.replace(config, data=limit_data(config.data, corpus, found), tokenizer=tokenizer)


def limit_data(data: DataConfig, corpus: Corpus, found: DataBudget | None) -> DataConfig:
    """No more of a text than these chunks, where the recipe leaves that open.

    None where no clock limits it.
    """
    if found is None:
        return data
    if data.train_bytes is None:
        data = dataclasses.replace(
            data, train_bytes=found.train if corpus.train.n_bytes > found.train else "all"
        )
    if data.validation_bytes is None:
        most = found.validation
        data = dataclasses.replace(data, validation_bytes=most if corpus.validation.n_bytes > most else "all")
    return data


def timed_budget(train: TrainConfig) -> Budget:
    """What `train.time` is worth on this machine, which is measured."""
    assert train.time is not None
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    return Budget(
        seconds=seconds(train.time), matrix_speed=matmul_speed(dtype, torch.device(train.device or "cpu"))
    )


def resolve_machine_options(train: TrainConfig) -> TrainConfig:
    """Threads, device and number format, as they will stand in run.yaml."""
    try:
        device = pick_device(train.device)
    except ValueError as error:
        raise InputError(f"train.{error}") from None
    retain_freed_memory()
    threads = use_threads(train.threads)
    precision = (
        train.precision if train.precision != "auto" else ("bf16" if bf16_is_faster(device) else "fp32")
    )
    return dataclasses.replace(train, threads=threads, device=str(device), precision=precision)


def _budget(config: PretrainConfig, corpus: Corpus) -> Budget:
    """What the dial may spend: arithmetic where the clock is the limit, tokens where the recipe says how
    many."""
    train = config.train
    if train.time is not None:
        return timed_budget(train)
    if train.epochs is not None:
        return Budget(bytes=train.epochs * corpus.train.n_bytes)
    if train.steps is not None:
        return Budget(steps=train.steps)
    return Budget(tokens=train.tokens or 1)


def _characters(config: PretrainConfig, corpus: Corpus) -> tuple[PretrainConfig, int]:
    """Whether a new tokenizer begins with characters, where the recipe leaves that to the text, and how many
    tokens those want."""
    settings = config.tokenizer
    if settings.kind != "bpe" or settings.path is not None:
        return config, 0
    if settings.characters is None:
        settings = dataclasses.replace(
            settings, characters=has_many_characters(corpus.train.sample(MAX_SAMPLE_CHARS))
        )
    wanted = tokens_for_characters(corpus.train.sample(MAX_SAMPLE_CHARS)) if settings.characters else 0
    return dataclasses.replace(config, tokenizer=settings), wanted


def _tokenizer(
    config: PretrainConfig, corpus: Corpus, choice: SizeChoice | None, monitor: Monitor
) -> tuple[PretrainConfig, Tokenizer]:
    settings = config.tokenizer
    if settings.path is not None:
        return config, Tokenizer.load(local_folder(settings.path, TOKENIZER_FILES))
    if settings.vocab_size is None and settings.kind in ("bpe", "unigram"):
        if choice is None:
            raise InputError("tokenizer.vocab_size: missing, and the model section leaves nothing to choose")
        settings = dataclasses.replace(settings, vocab_size=choice.vocab_size)
    monitor.stage("learning the tokenizer", 0, None)
    place = default_cache_directory() / "tokenizers" / cache_key(corpus.train.fingerprint, plain(settings))

    def build_there(fresh: Path) -> dict[str, Any]:
        interruptible(
            lambda: train_tokenizer(corpus.train.sample(settings.train_bytes or MOST_SEEN), settings)
        ).save(fresh)
        return {}

    cached_directory(place, build_there)
    return dataclasses.replace(config, tokenizer=settings), Tokenizer.load(place)


def _network(model: dict[str, Any], choice: SizeChoice | None, tokenizer: Tokenizer) -> GPTConfig:
    chosen = choice.model if choice else {}
    if "block" in model or "positions" in model or "norm" in model:
        chosen = {
            name: chosen[name] for name in ("context_length", "n_layer", "n_head", "n_embd") if name in chosen
        }
    if {"n_head", "n_embd"} & model.keys() and "head_dim" not in model:
        chosen = {
            name: value for name, value in chosen.items() if name not in ("head_dim", "n_kv_head", "n_inner")
        }
    try:
        network = GPTConfig(**(chosen | {"vocab_size": tokenizer.vocab_size} | model))
    except (ConfigError, TypeError) as error:
        raise InputError(f"model.{error}") from None
    if network.vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"model.vocab_size: {network.vocab_size} is less than the tokenizer's {tokenizer.vocab_size}"
        )
    return network


def check_size(network: GPTConfig, processes: int) -> None:
    """Raises InputError for a network whose weights alone this machine could not hold, before they are
    made."""
    weights, memory = count_parameters(network).total, psutil.virtual_memory().total
    if 4 * weights > memory * processes:
        raise InputError(
            f"model: a network of {weights:,} weights takes {byte_size(4 * weights)} in fp32, and this "
            f"machine has {byte_size(memory)} of "
            "memory; make model.n_embd, model.n_layer or the vocabulary smaller"
        )


def describe_skipped(report: dict[str, Any]) -> list[str]:
    """Sentences about what reading skipped and cleaning changed; none when nothing was."""
    sentences = []
    if report["unknown_suffix"]["count"]:
        names = ", ".join(report["unknown_suffix"]["first"][:3])
        sentences.append(
            f"Passed over {counted(report['unknown_suffix']['count'], 'file')} of other kinds ({names}, …)."
        )
    if report["encodings"]:
        name, encoding = next(iter(report["encodings"].items()))
        more = f" and {len(report['encodings']) - 1} more files" if len(report["encodings"]) > 1 else ""
        sentences.append(
            f"{name}{more}: not UTF-8, read as {encoding}, which is a guess; --data.encoding names another."
        )
    if report["skipped"]:
        counts = ", ".join(f"{count} {reason}" for reason, count in report["skipped"].items())
        sentences.append(f"Left out: {counts}. The first: {report['first_skipped']}")
    if report["cleaning"]:
        sentences.append(
            "Cleaning: " + ", ".join(f"{count} {what}" for what, count in report["cleaning"].items()) + "."
        )
    return sentences


def describe_text_size(text: TextRange, most: Literal["all"] | int | None) -> str:
    """How much of a text is used, for people."""
    whole = byte_size(text.n_bytes)
    return whole if most is None or most == "all" or most >= text.n_bytes else f"{byte_size(most)} of {whole}"


def still_holds(
    reason: Reason, choice: SizeChoice | None, network: GPTConfig, config: PretrainConfig
) -> bool:
    """Whether what the dial says of its choice is still so, now that recipe and options have had their
    say."""
    if choice is None or any(getattr(network, name) != choice.model[name] for name in reason.fields):
        return False
    if reason.about == "vocabulary":
        return config.tokenizer.path is None and config.tokenizer.vocab_size == choice.vocab_size
    if reason.about == "rates":
        usual, optimizer = OptimizerConfig(), config.optimizer
        wanted = [
            round(times * rate, 6)
            for times, rate in zip(
                choice.rates, (usual.learning_rate, usual.matrix_learning_rate), strict=True
            )
        ]
        return (
            optimizer.kind == usual.kind
            and [optimizer.learning_rate, optimizer.matrix_learning_rate] == wanted
        )
    return True


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e5 else f"{parameters:,}"


def _announce(
    config: PretrainConfig, network: GPTConfig, choice: SizeChoice | None, corpus: Corpus, monitor: Monitor
) -> None:
    for reason in choice.reasons if choice else ():
        if still_holds(reason, choice, network, config):
            monitor.say(reason.text)
    with torch.device("meta"):
        count = GPT(network).parameter_count()
    monitor.say(
        f"Model: {_count(count)} parameters, {counted(network.n_layer, 'layer')} × {network.n_embd}, "
        f"vocabulary {network.vocab_size}, "
        f"context {network.context_length}. Text: "
        f"{describe_text_size(corpus.train, config.data.train_bytes)} to learn, "
        f"{describe_text_size(corpus.validation, config.data.validation_bytes)} held out. "
        f"{config.train.precision} on {counted(config.train.threads or 0, 'thread')}."
    )
    if (advice := why_not_stock(network)) is not None:
        monitor.say(f"Note: {advice}.")
