"""A conversation that goes on: its messages, what of them fits the context, and what the network has read of
them."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import replace
from typing import Unpack

from newleaf.errors import InputError
from newleaf.generate.chat.answering import Answerer, ChatResponder, ReplyPiece, answer_config, gather
from newleaf.generate.options import SamplingConfig, SamplingOptions, sampling_config
from newleaf.text.chat_template import Prompt, RenderOptions
from newleaf.text.messages import Message, check_messages

INSTRUCTIONS = ("system", "developer")


class Conversation:
    """Messages so far, and what answers them, which keeps the keys and values of what it read from turn to
    turn.

    When the conversation outgrows the context, the network no longer sees the oldest turns; the system
    message stays, and `messages` keeps everything. `forgotten` counts the messages that are not seen.
    """

    def __init__(
        self,
        responder: ChatResponder,
        writer: Answerer,
        system: str | None = None,
        how: RenderOptions | None = None,
    ) -> None:
        self.responder = responder
        self.how = how or RenderOptions()
        self.writer = writer
        self.forgotten = 0
        self.answers = 0
        self.messages: list[Message] = []
        self.set_system(system)

    @property
    def system(self) -> str | None:
        """The system message."""
        return next(
            (str(message["content"]) for message in self.messages if message["role"] == "system"), None
        )

    def set_system(self, text: str | None) -> None:
        """Put another system message in its place, or none."""
        _, rest = self._parted()
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages, _ = self._parted()
        self.forgotten = 0

    def replace(self, messages: object) -> None:
        """Go on from these messages. Raises InputError when they are no conversation."""
        self.messages = check_messages(messages)
        self.forgotten = 0

    def undo(self) -> str | None:
        """Take back the last message of the user and what followed; returns it, or None when there is
        none."""
        places = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        if not places:
            return None
        content = self.messages[places[-1]]["content"]
        self.messages = self.messages[: places[-1]]
        self.forgotten = min(self.forgotten, len(self._parted()[1]))
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    def say(
        self, text: str, config: SamplingConfig | None = None, **options: Unpack[SamplingOptions]
    ) -> Generator[ReplyPiece]:
        """Add a message of the user and generate the answer, piece by piece.

        Options are those of `Model.chat`, such as `temperature=0.7`. When the answer is interrupted, what was
        generated stays; if there is nothing, the message goes. `config` is deprecated: pass its fields as
        keywords.

        Raises InputError for wrong options, and while iterating, with the message taken back,
        when the message alone does not fit the context.
        """
        if config is None:
            return self._answer(text, answer_config(options))
        warnings.warn(
            "say(text, config) is deprecated; use say(text, temperature=0.7, max_tokens=200)",
            DeprecationWarning,
            stacklevel=2,
        )
        return self._answer(text, sampling_config(options, config))

    def _answer(self, text: str, config: SamplingConfig) -> Generator[ReplyPiece]:
        self.messages.append({"role": "user", "content": text})
        try:
            prompt = self._fitting(config)
        except BaseException:
            self.messages.pop()
            raise
        if config.seed is not None:
            # one seed, one conversation; another try, another answer
            config = replace(config, seed=config.seed + self.answers)
        self.answers += 1
        pieces: list[ReplyPiece] = []
        try:
            for piece in self.responder.answer(prompt, config, self.writer, self.how.tools):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self.messages.append(gather(pieces).message)
            else:
                self.messages.pop()

    def _fitting(self, config: SamplingConfig) -> Prompt:
        """The prompt, without oldest turns where they do not fit. Then a quarter of the context is freed at
        once, for the next turns."""
        limit = self.responder.context_length
        room = min(config.max_tokens, limit // 4)
        prompt = self._prompt()
        if len(prompt.ids) + room <= limit:
            return prompt
        while len(prompt.ids) + room > limit - limit // 4 and self._forget_turn():
            prompt = self._prompt()
        if len(prompt.ids) >= limit:
            raise InputError(
                f"the message makes a prompt of {len(prompt.ids):,} tokens, and the context is {limit:,}; "
                f"shorten it"
            )
        return prompt

    def _prompt(self) -> Prompt:
        kept, rest = self._parted()
        return self.responder.prompt([*kept, *rest[self.forgotten :]], self.how)

    def _parted(self) -> tuple[list[Message], list[Message]]:
        """Instructions, which are never forgotten, and the rest."""
        kept = [message for message in self.messages if message["role"] in INSTRUCTIONS]
        return kept, [message for message in self.messages if message["role"] not in INSTRUCTIONS]

    def _forget_turn(self) -> bool:
        """Leave out one more turn: a message of the user and all up to the next. The last one stays."""
        _, rest = self._parted()
        starts = [
            place
            for place, message in enumerate(rest)
            if message["role"] == "user" and place > self.forgotten
        ]
        if not starts:
            return False
        self.forgotten = starts[0]
        return True
