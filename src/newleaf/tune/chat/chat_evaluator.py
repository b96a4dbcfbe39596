"""What a model that learns to chat is asked now and then: its loss on conversations it has not seen, answers,
and how good they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from newleaf.data.batches import Batch
from newleaf.generate.backend.executor import ModuleExecutor
from newleaf.generate.chat.answering import ChatResponder
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.measure.corpus_scores import text_metric
from newleaf.model import GPT
from newleaf.storage.atomic_write import write_text
from newleaf.text.chat_template import ChatTemplate, RenderOptions
from newleaf.text.messages import Message
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.loop import NEXT_TOKEN, next_token_losses
from newleaf.train.objective.objective import SampledText, ValidationMetrics
from newleaf.tune.chat.chat_config import ChatConfig
from newleaf.tune.conversations.conversation_formats import Conversation
from newleaf.tune.conversations.example import Example
from newleaf.tune.conversations.packing import PackedExamples
from newleaf.tune.loss_evaluator import LossEvaluator, evaluating, evenly

EVAL_TOKENS = 8192  # about, in one batch of a validation
# questions of the validation set that are answered at each check, where the recipe has none of its own
SHOWN = 2
ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class HeldOutConversations:
    """Conversations with their examples, as rows of a validation: any of them packed into windows."""

    talks: Sequence[tuple[Conversation, Sequence[Example]]]
    length: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.talks)

    def rows(self, numbers: Sequence[int]) -> Batch:
        examples = [example for number in numbers for example in self.talks[number][1]]
        packed = PackedExamples(examples, self.length, self.pad_id, 0)
        return packed.rows(range(len(packed)))

    @cached_property
    def at_once(self) -> int:
        """How many of them make a batch."""
        places = sum(example.places for _, examples in self.talks for example in examples) / max(
            1, len(self.talks)
        )
        return max(1, int(EVAL_TOKENS / max(1.0, places)))


class ChatEvaluator(LossEvaluator):
    """Figures are `val_loss` and, where `config.measure` asks for one, how good the answers are that the
    model writes itself (most likely words, no sampling) to the last questions of conversations."""

    def __init__(
        self,
        network: nn.Module,
        template: ChatTemplate,
        talks: HeldOutConversations,
        config: ChatConfig,
        sampling: SamplingConfig,
        prompts: Sequence[str],
        check_stop: Callable[[], None],
        ranks: Ranks,
    ) -> None:
        super().__init__(network, talks, next_token_losses, NEXT_TOKEN, talks.at_once, check_stop, ranks)
        self.template, self.talks, self.config, self.sampling = template, talks, config, sampling
        self.gpt, self.tokenizer = cast(GPT, network), template.tokenizer
        self.reports = config.measure is not None
        self.asked = {
            prompt: [{"role": "user", "content": prompt}] for prompt in prompts if prompt
        } or self._questions(SHOWN)
        if config.system is not None:
            self.asked = {
                name: _with_system(messages, config.system) for name, messages in self.asked.items()
            }
        self.prompts = tuple(self.asked)
        self.written: list[dict[str, Any]] = []  # at the last look

    def validate(self, rows: int | None, to_the_end: bool = False) -> ValidationMetrics:
        """The loss over this many conversations, evenly spaced, or over all, and the measure over at most
        `config.answers` of them."""
        found = super().validate(rows, to_the_end)
        if self.config.measure is None:
            return found
        return found | self.ranks.on_rank_zero(lambda: self._measured(evenly(self.all_rows, rows)))

    def sample(self, prompt: str, seconds: float) -> SampledText:
        """The answer to a question, or what there is of it after so many seconds."""
        begin, text = self.ranks.clock(), ""
        responder = ChatResponder(self.gpt.config.context_length, self.template)
        writer = Engine(self.gpt, self.tokenizer, executor=ModuleExecutor(self.gpt, 1))
        with evaluating(self.network):
            for piece in responder.answer(
                responder.prompt(self.asked[prompt], RenderOptions()), self.sampling, writer
            ):
                self.check_stop()
                text += piece.text
                if self.ranks.from_rank_zero(self.ranks.clock() - begin > seconds):
                    return SampledText(text, cut=True)
        return SampledText(text)

    def report(self, folder: Path, rows: int) -> dict[str, Any]:
        """What was asked and answered at the last look, beside the references."""
        write_text(
            folder / ANSWERS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.written)
        )
        return {"answers": len(self.written)}

    def _measured(self, numbers: Sequence[int]) -> ValidationMetrics:
        assert self.config.measure is not None
        found = [
            last for number in numbers if (last := _last_question(self.talks.talks[number][0])) is not None
        ]
        found = [found[number] for number in evenly(len(found), self.config.answers)]
        texts = self._answers([(asked, talk.tools) for talk, asked, _ in found])
        references = [good for _, _, good in found]
        self.written = [
            {"question": _text(asked[-1]), "answer": text, "references": list(good)}
            for (_, asked, good), text in zip(found, texts, strict=True)
        ]
        return {
            f"val_{name}": value
            for name, value in text_metric(self.config.measure, texts, references).items()
        }

    def _answers(self, asked: Sequence[tuple[list[Message], Any]]) -> list[str]:
        """The likeliest answer to each, many at once."""
        limit, turn = self.gpt.config.context_length, self.template.turn_end
        prompts = [
            self.template.encode(messages, RenderOptions(tools=tools, add_generation_prompt=True)).ids
            for messages, tools in asked
        ]
        config = SamplingConfig(
            max_tokens=self.config.max_tokens,
            temperature=0,
            stop_ids=(turn.token,) if turn.token is not None else (),
            stop=(turn.text,) if turn.text else (),
        )
        with evaluating(self.network), Engine(self.gpt, self.tokenizer) as engine:
            requests = [engine.submit(ids, config) if len(ids) < limit else None for ids in prompts]
            return [
                "".join(piece.text for piece in request) if request is not None else ""
                for request in requests
            ]

    def _questions(self, count: int) -> dict[str, list[Message]]:
        found = [
            last for talk, _ in self.talks.talks[: 4 * count] if (last := _last_question(talk)) is not None
        ]
        return {_text(asked[-1]): asked for _, asked, _ in found[:count]}


def _last_question(talk: Conversation) -> tuple[Conversation, list[Message], Sequence[str]] | None:
    """A conversation up to its last answer in words, and what is a good one."""
    said = [number for number in talk.said_by_assistant() if number and _text(talk.messages[number])]
    if not said:
        return None
    return talk, talk.messages[: said[-1]], talk.references or (_text(talk.messages[said[-1]]),)


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _with_system(messages: list[Message], system: str) -> list[Message]:
    return (
        messages
        if messages[0]["role"] in ("system", "developer")
        else [{"role": "system", "content": system}, *messages]
    )
