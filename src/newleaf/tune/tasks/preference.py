"""Learning from preferences: pairs of answers of which one is better, by DPO, IPO or ORPO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from newleaf.format_amounts import counted
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Objective, SelectionMetric
from newleaf.tune.base_model import Base, check_length
from newleaf.tune.chat.chat_base_model import ChatBase, chat_base
from newleaf.tune.chat.chat_config import ChatConfig
from newleaf.tune.chat.chat_objective import ChatModelObjective, Sizes
from newleaf.tune.conversations.assistant_mask import Answers
from newleaf.tune.conversations.conversation_config import ConversationDataConfig
from newleaf.tune.conversations.example import ExamplePair
from newleaf.tune.conversations.packing import ShuffledBatches
from newleaf.tune.conversations.read_examples import Reading
from newleaf.tune.conversations.split import Split, fingerprint_of, read_pairs
from newleaf.tune.hyperparameters import TaskDefaults
from newleaf.tune.loss_evaluator import LossEvaluator
from newleaf.tune.losses.loss_config import PreferenceConfig
from newleaf.tune.losses.preference_losses import PairBatch, Pairs, PreferenceLoss, with_reference
from newleaf.tune.tune_config import TuneConfig
from newleaf.tune.tuning_task import USUAL, Task

EVAL_PAIRS = 8  # in one batch of a validation


@dataclass(frozen=True)
class PreferenceTuneConfig(TuneConfig):
    """The recipe: `data` for the rows, `chat` for how they are rendered, `preference` for the loss."""

    data: ConversationDataConfig = field(default_factory=ConversationDataConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)


class PreferenceObjective(ChatModelObjective):
    """A preference's loss over pairs whose reference log-probabilities are known."""

    measure = SelectionMetric("val_loss", "preference loss")

    def __init__(
        self,
        config: PreferenceTuneConfig,
        ready: ChatBase,
        train: list[ExamplePair],
        held_out: list[ExamplePair],
    ) -> None:
        self.losses = PreferenceLoss(config.preference)
        self.terms = self.losses.terms
        self.pairs, self.held_out = (Pairs(pairs, self.losses, ready.pad_id) for pairs in (train, held_out))
        learned = sum(int(side.learned[1:].sum()) for pair in train for side in (pair.chosen, pair.rejected))
        sizes = Sizes(len(train), sum(pair.places for pair in train), learned, len(held_out))
        sides = (side for pair in [*train, *held_out] for side in (pair.chosen, pair.rejected))
        super().__init__(config, ready, sizes, fingerprint_of(sides))

    def batches(self, share: tuple[int, int]) -> ShuffledBatches[PairBatch]:
        return ShuffledBatches(self.pairs, self.train.batch_size, self.train.seed, share)

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> LossEvaluator:
        return LossEvaluator(network, self.held_out, self.losses, self.terms, EVAL_PAIRS, check_stop, ranks)


def open_preference(config: PreferenceTuneConfig, base: Base, monitor: Monitor, ranks: Ranks) -> Objective:
    """Read and render the pairs, and ask the model as it is what it gives them.

    Raises InputError for bad ones, with file and line.
    """
    length = check_length(config.chat.length, base, "chat.length")
    config = dataclasses.replace(config, chat=dataclasses.replace(config.chat, length=length))
    ready = chat_base(base, config.chat, config, monitor)
    reading = Reading(
        length,
        config.chat.system,
        on_error=config.data.on_error,
        encoding=config.data.encoding,
        context=base.config.context_length,
    )
    train, held_out = read_pairs(Split(config.source, config.data), reading, Answers(ready.template), monitor)
    if config.preference.method != "orpo":
        both = _referred([*train, *held_out], config, ready, monitor)
        train, held_out = both[: len(train)], both[len(train) :]
    monitor.say(
        f"Pairs: {len(train):,} to learn from, {len(held_out):,} held out, by "
        f"{config.preference.method.upper()}. "
        f"{config.train.precision} on {counted(config.train.threads or 0, 'thread')}."
    )
    return PreferenceObjective(config, ready, train, held_out)


def _referred(
    pairs: list[ExamplePair], config: PreferenceTuneConfig, ready: ChatBase, monitor: Monitor
) -> list[ExamplePair]:
    """The pairs with the log-probabilities of the model as it is, in the number format of the training.

    The network is let go of.
    """
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    network = ready.network().to(device=torch.device(config.train.device or "cpu"), dtype=dtype)
    return with_reference(
        pairs, network, ready.pad_id, lambda done, of: monitor.stage("asking the reference model", done, of)
    )


# A tenth of the rates: what is learned is a difference to the model as it was, which is soon too large.
TASK = Task(PreferenceTuneConfig, open_preference, USUAL, TaskDefaults(8, share=0.05, rate=0.1), epochs=1.0)
