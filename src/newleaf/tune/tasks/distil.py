"""Learning what a bigger model would have said, word by word, on conversations or on documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from newleaf.data.batches import Batch, TrainBatches
from newleaf.data.data_config import DataConfig
from newleaf.data.windows import windows
from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.recipe import merge
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES
from newleaf.storage.model_folder import load_folder
from newleaf.storage.resolve_model import is_gguf, resolve_model
from newleaf.text.tokenizer import Tokenizer
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Objective, SelectionMetric
from newleaf.tune.base_model import Base, check_length, fingerprint
from newleaf.tune.chat.chat_base_model import ChatBase, chat_base
from newleaf.tune.chat.chat_config import ChatConfig
from newleaf.tune.chat.chat_objective import ChatModelObjective, Sizes
from newleaf.tune.conversations.assistant_mask import Answers
from newleaf.tune.conversations.conversation_config import ConversationDataConfig
from newleaf.tune.conversations.example import Example
from newleaf.tune.conversations.packing import PackedExamples, ShuffledBatches
from newleaf.tune.conversations.read_examples import Reading
from newleaf.tune.conversations.split import Split, fingerprint_of, read_conversations
from newleaf.tune.hyperparameters import TaskDefaults
from newleaf.tune.loss_evaluator import LossEvaluator
from newleaf.tune.losses.distillation import DistilLoss, TeacherBatch, TeacherRows, open_teacher_store
from newleaf.tune.losses.loss_config import DistilConfig
from newleaf.tune.tasks.text import TextConfig, TuneTextObjective, WindowConfig, open_text
from newleaf.tune.tune_config import TuneConfig
from newleaf.tune.tuning_task import USUAL, Task

EVAL_TOKENS = 4096  # in one batch of a validation
MEASURE = SelectionMetric("val_loss", "distillation loss")


@dataclass(frozen=True)
class DistilTuneConfig(TuneConfig):
    """The recipe: `data`, `distil`, and `chat` or `text` for what the rows are."""

    data: DataConfig = field(default_factory=DataConfig)
    text: WindowConfig = field(default_factory=WindowConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)


@dataclass(frozen=True)
class Teacher:
    """A model to learn from, in the number format of the training."""

    network: GPT
    tokenizer: Tokenizer
    fingerprint: str


class DistilChatObjective(ChatModelObjective):
    """On the assistant's words of conversations, in packed windows."""

    measure = MEASURE

    def __init__(
        self, config: DistilTuneConfig, ready: ChatBase, train: Sequence[Example],
        held_out: Sequence[Example], teacher: Teacher, stage: Callable[[str, int, int | None], None],
    ) -> None:  # fmt: skip
        distil = config.distil
        self.losses = DistilLoss(
            distil, None if distil.top_k else teacher.network, ready.tokenizer.vocab_size
        )
        self.terms = self.losses.terms
        sides = []
        for examples in (train, held_out):
            packed = PackedExamples(
                examples, config.chat.length, ready.pad_id, config.train.seed, config.chat.packed
            )
            name = f"{fingerprint_of(examples)} {teacher.fingerprint}"
            ask = partial(
                open_teacher_store, examples, name, teacher.network, ready.tokenizer.vocab_size, distil
            )
            store = ask(lambda done, of: stage("asking the teacher", done, of)) if distil.top_k else None
            sides.append(TeacherRows(packed, store))
        self.rows, self.held_out = sides
        positions = sum(example.places for example in train)
        sizes = Sizes(len(self.rows), positions, self.rows.packed.targets, len(self.held_out))
        super().__init__(config, ready, sizes, fingerprint_of([*train, *held_out]))
        self.fingerprints = {**self.fingerprints, "teacher": teacher.fingerprint}

    def batches(self, share: tuple[int, int]) -> ShuffledBatches[TeacherBatch]:
        return ShuffledBatches(self.rows, self.train.batch_size, self.train.seed, share)

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> LossEvaluator:
        at_once = EVAL_TOKENS // self.rows.packed.length
        return LossEvaluator(network, self.held_out, self.losses, self.terms, at_once, check_stop, ranks)


class TextRows:
    """Windows of a text's stream, each byte once."""

    def __init__(self, objective: TuneTextObjective) -> None:
        prepared = objective.prepared
        self.windows = windows(prepared.validation, prepared.window, prepared.config.data, every_byte=True)

    def __len__(self) -> int:
        return self.windows.count

    def rows(self, numbers: Sequence[int]) -> TeacherBatch:
        ids, targets, documents = self.windows.rows(np.array(numbers, dtype=np.int64))
        tensors = (
            torch.from_numpy(np.ascontiguousarray(array))
            for array in (ids, targets, documents.astype(np.int32))
        )
        return TeacherBatch(Batch(*tensors), ())


class TextWindows:
    """The batches of a text objective, with a count for each term of the loss."""

    def __init__(self, batches: TrainBatches) -> None:
        self._batches = batches

    @property
    def rows_per_epoch(self) -> int:
        return self._batches.rows_per_epoch

    def batch(self, step: int) -> TeacherBatch:
        return TeacherBatch(self._batches.batch(step), ())

    def widest(self) -> TeacherBatch:
        return TeacherBatch(self._batches.widest(), ())


class DistilTextObjective(TuneTextObjective):
    """On every token of documents."""

    measure = MEASURE

    def __init__(self, objective: TuneTextObjective, teacher: Teacher) -> None:
        super().__init__(objective.prepared, objective.base)
        self.losses = DistilLoss(self.config.distil, teacher.network, self.base.tokenizer.vocab_size)
        self.terms, self.teacher = self.losses.terms, teacher  # type: ignore[assignment]

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return {**super().fingerprints, "teacher": self.teacher.fingerprint}

    def batches(self, share: tuple[int, int]) -> Any:
        return TextWindows(super().batches(share))

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> Any:
        at_once = EVAL_TOKENS // self.prepared.window
        return LossEvaluator(network, TextRows(self), self.losses, self.terms, at_once, check_stop, ranks)


def open_distil(config: DistilTuneConfig, base: Base, monitor: Monitor, ranks: Ranks) -> Objective:
    """Open the teacher, read and encode.

    Raises InputError for one with another tokenizer, and for bad rows.
    """
    teacher = open_teacher(config, base)
    if config.distil.on == "text":
        if config.distil.top_k:
            raise InputError(
                "distil.top_k: is for conversations; windows of documents lie elsewhere in each epoch"
            )
        length = check_length(config.text.length, base, "text.length")
        _check_context(teacher, length)
        objective = open_text(_as_text(config), base, monitor, ranks)
        assert isinstance(objective, TuneTextObjective)
        settled = dataclasses.replace(config, text=WindowConfig(length))
        return DistilTextObjective(
            TuneTextObjective(dataclasses.replace(objective.prepared, config=settled), base), teacher
        )
    length = check_length(config.chat.length, base, "chat.length")
    _check_context(teacher, length)
    config = dataclasses.replace(config, chat=dataclasses.replace(config.chat, length=length))
    ready = _chat_base(config, base, teacher, monitor)
    data = config.data
    rows = ConversationDataConfig(
        data.val_fraction,
        data.validation_sources or None,
        data.limit,
        data.validation_limit,
        data.on_error,
        data.encoding,
    )
    reading = Reading(
        length,
        config.chat.system,
        on_error=rows.on_error,
        encoding=rows.encoding,
        context=base.config.context_length,
    )
    train, held_out = read_conversations(
        Split(config.source, rows), reading, Answers(ready.template), monitor
    )
    sides = [[example for _, made in talks for example in made] for talks in (train, held_out)]
    return DistilChatObjective(config, ready, sides[0], sides[1], teacher, monitor.stage)


def open_teacher(config: DistilTuneConfig, base: Base) -> Teacher:
    """The teacher, ready to be asked. Raises InputError when its ids mean other tokens than the student's."""
    name = config.distil.teacher
    if name is None:
        raise InputError("distil.teacher: missing; name the model to learn from")
    path = resolve_model(name, (*MODEL_FILES, *TOKENIZER_FILES))
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    if is_gguf(path):
        from newleaf.storage.load_gguf import load_gguf

        folder = load_gguf(path, dtype)
    else:
        folder = load_folder(path, dtype)
    if folder.tokenizer.backend.get_vocab() != base.tokenizer.backend.get_vocab():
        raise InputError(
            f"distil.teacher: {name} has another tokenizer than {base.name}, so their distributions cannot "
            f"be compared"
        )
    network = folder.network.to(torch.device(config.train.device or "cpu")).eval().requires_grad_(False)
    return Teacher(network, folder.tokenizer, fingerprint(network))


def _check_context(teacher: Teacher, length: int) -> None:
    most = teacher.network.config.context_length
    if length > most:
        raise InputError(
            f"distil.teacher: its context has {most:,} tokens, and rows have {length:,}; lower chat.length "
            f"or text.length"
        )


def _chat_base(config: DistilTuneConfig, base: Base, teacher: Teacher, monitor: Monitor) -> ChatBase:
    """The student with its own template, or with the teacher's where it has none."""
    template = teacher.tokenizer.settings.get("chat_template")
    if config.chat.template is None and template and not base.tokenizer.settings.get("chat_template"):
        own = base.tokenizer
        ready = Tokenizer(
            own.backend, own.bos_id, own.eos_id, own.pad_id, own.settings | {"chat_template": template}
        )
        return ChatBase(base, ready, [], config.train.seed)
    found = chat_base(base, config.chat, config, monitor)
    if found.added:
        raise InputError(
            "distil: the template needs new tokens, which the teacher does not know; tune the student for "
            "chat first"
        )
    return found


def _as_text(config: DistilTuneConfig) -> TextConfig:
    shared = {item.name: getattr(config, item.name) for item in dataclasses.fields(TextConfig)}
    return TextConfig(**shared)


TASK = Task(
    DistilTuneConfig,
    open_distil,
    merge(USUAL, {"train": {"eval_windows": 256}}),
    TaskDefaults(8, batch_tokens=2048),
)
