"""Learning to answer: conversations, of which the assistant's words are learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from newleaf.data.batches import Batch
from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.generate.options import SamplingConfig
from newleaf.measure.corpus_scores import headline, text_metric
from newleaf.recipe import build, merge
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.loop import NEXT_TOKEN, next_token_losses
from newleaf.train.objective.objective import Objective, SelectionMetric
from newleaf.tune.base_model import Base, check_length
from newleaf.tune.chat.chat_base_model import ChatBase, chat_base
from newleaf.tune.chat.chat_config import ChatConfig
from newleaf.tune.chat.chat_evaluator import ChatEvaluator, HeldOutConversations
from newleaf.tune.chat.chat_objective import ChatModelObjective, Sizes
from newleaf.tune.conversations.assistant_mask import Answers
from newleaf.tune.conversations.conversation_config import ConversationDataConfig
from newleaf.tune.conversations.packing import PackedExamples, ShuffledBatches
from newleaf.tune.conversations.read_examples import Reading
from newleaf.tune.conversations.split import Split, Talk, fingerprint_of, read_conversations
from newleaf.tune.hyperparameters import TaskDefaults
from newleaf.tune.tune_config import TuneConfig
from newleaf.tune.tuning_task import USUAL, Task


@dataclass(frozen=True)
class ChatTuneConfig(TuneConfig):
    """The recipe: `data` for the rows, `chat` for what becomes of them."""

    data: ConversationDataConfig = field(default_factory=ConversationDataConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)


class ChatObjective(ChatModelObjective):
    """Next-token loss on the assistant's words, in packed windows."""

    terms = NEXT_TOKEN
    config: ChatTuneConfig

    def __init__(
        self, config: ChatTuneConfig, ready: ChatBase, train: Sequence[Talk], held_out: Sequence[Talk]
    ) -> None:
        examples = [example for _, made in train for example in made]
        self.packed = PackedExamples(
            examples, config.chat.length, ready.pad_id, config.train.seed, config.chat.packed
        )
        self.talks = HeldOutConversations(held_out, config.chat.length, ready.pad_id)
        positions = sum(example.places for example in examples)
        sizes = Sizes(len(self.packed), positions, self.packed.targets, len(held_out))
        super().__init__(
            config,
            ready,
            sizes,
            fingerprint_of([*examples, *(example for _, made in held_out for example in made)]),
        )

    @property
    def measure(self) -> SelectionMetric:
        metric = self.config.chat.measure
        if metric is None:
            return SelectionMetric("val_loss", "nats per token")
        name = headline(metric)
        return SelectionMetric(
            f"val_{name}",
            {"bleu": "BLEU", "chrf": "chrF", "rougeL": "ROUGE-L"}.get(name, "% exact"),
            higher_is_better=True,
        )

    def batches(self, share: tuple[int, int]) -> ShuffledBatches[Batch]:
        return ShuffledBatches(self.packed, self.train.batch_size, self.train.seed, share)

    losses = staticmethod(next_token_losses)

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> ChatEvaluator:
        sampling = build(
            SamplingConfig, {"max_tokens": 60, "seed": self.train.seed} | self.train.sample, "train.sample."
        )
        return ChatEvaluator(
            network,
            self.ready.template,
            self.talks,
            self.config.chat,
            sampling,
            self.train.prompts,
            check_stop,
            ranks,
        )


def open_chat(config: ChatTuneConfig, base: Base, monitor: Monitor, ranks: Ranks) -> Objective:
    """Read and render the conversations. Raises InputError for bad ones, with file and line."""
    if config.chat.measure is not None:
        text_metric(config.chat.measure, [""], [["x"]])  # a package that is missing is better missed now
    config, ready, train, held_out = conversations_of(config, base, monitor)
    objective = ChatObjective(config, ready, train, held_out)
    sizes = objective.sizes
    monitor.say(
        f"Conversations: {len(train):,} to learn from, {len(held_out):,} held out; {sizes.learned:,} of "
        f"{sizes.positions:,} tokens are the "
        f"assistant's, in {counted(sizes.rows, 'window')} of {objective.packed.length}. "
        f"{config.train.precision} on {counted(config.train.threads or 0, 'thread')}."
    )
    return objective


def conversations_of(
    config: ChatTuneConfig, base: Base, monitor: Monitor
) -> tuple[ChatTuneConfig, ChatBase, list[Talk], list[Talk]]:
    """The configuration with nothing left open, the base ready to chat, and the conversations to learn from
    and held out."""
    if build(SamplingConfig, config.train.sample, "train.sample.").n != 1:
        raise InputError("train.sample.n: one sample is shown for each prompt")
    length = check_length(config.chat.length, base, "chat.length")
    ready = chat_base(base, config.chat, config, monitor)
    reading = Reading(
        length,
        config.chat.system,
        on_error=config.data.on_error,
        encoding=config.data.encoding,
        context=base.config.context_length,
    )
    train, held_out = read_conversations(
        Split(config.source, config.data), reading, Answers(ready.template), monitor
    )
    return (
        dataclasses.replace(config, chat=dataclasses.replace(config.chat, length=length)),
        ready,
        train,
        held_out,
    )


TASK = Task(
    ChatTuneConfig,
    open_chat,
    merge(USUAL, {"train": {"eval_windows": 256}}),
    TaskDefaults(8, batch_tokens=2048),
)
