"""Conversations to ids and a mask that is true exactly on what the assistant wrote, with the token that ends
its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from newleaf.errors import InputError
from newleaf.text.chat_template import ChatTemplate, RenderedConversation, RenderOptions
from newleaf.text.messages import Message
from newleaf.tune.conversations.conversation_formats import Conversation
from newleaf.tune.conversations.example import Example

Span = tuple[int, int]


class UnprovenError(InputError):
    """The template does not tell where the answers of a conversation stand."""


@dataclass(frozen=True)
class Answers:
    """Finds what the assistant wrote.

    Where the template has `{% generation %}` blocks those are it, as in stock transformers; elsewhere an
    answer is what rendering a conversation with it adds to rendering the conversation before it, with the
    beginning of an answer.

    That takes that the shorter rendering is the beginning of the longer one, which is looked at for each
    answer, never assumed.
    """

    template: ChatTemplate
    how: RenderOptions = field(default_factory=RenderOptions)

    def examples(self, conversation: Conversation) -> list[Example]:
        """The conversation as one example.

        Or, where the template rewrites earlier answers (leaves out old thoughts), one for each answer as it
        stood when it was written. Raises UnprovenError, and InputError as rendering does.
        """
        marked = self.marked(conversation, conversation.messages)
        if self.template.marks_answers(conversation.tools):
            return [self._example(conversation, marked, self._generated(conversation, marked))]
        try:
            return [self._example(conversation, marked, self._added(conversation, marked))]
        except UnprovenError:
            answers = [number for number in conversation.said_by_assistant() if number]
            if len(answers) < 2:
                raise
        found = []
        for number in answers:
            alone = replace(
                conversation, messages=conversation.messages[: number + 1], learned=(*[False] * number, True)
            )
            marked = self.marked(alone, alone.messages)
            found.append(self._example(alone, marked, self._added(alone, marked)))
        return found

    def marked(self, conversation: Conversation, messages: Sequence[Message]) -> RenderedConversation:
        """Messages of the conversation rendered, with the place of each token."""
        try:
            return self.template.encode_marked(list(messages), self._rendering(conversation))
        except InputError as error:
            raise InputError(f"{conversation.where}: {error}") from None

    def _rendering(self, conversation: Conversation, ask: bool = False) -> RenderOptions:
        return replace(
            self.how, tools=conversation.tools, documents=conversation.documents, add_generation_prompt=ask
        )

    def _generated(self, conversation: Conversation, marked: RenderedConversation) -> list[Span]:
        if all(conversation.learned):
            return marked.generated
        said = [
            number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"
        ]
        if len(said) != len(marked.generated):
            raise InputError(
                f"{conversation.where}: weight: the chat template marks {len(marked.generated)} answers of "
                f"{len(said)}, "
                "so single ones cannot be left out"
            )
        wanted = set(conversation.said_by_assistant())
        return [span for number, span in zip(said, marked.generated, strict=True) if number in wanted]

    def _added(self, conversation: Conversation, whole: RenderedConversation) -> list[Span]:
        """Where the answers stand; one that opens the conversation is context, since no rendering is without
        messages."""
        spans = []
        for number in conversation.said_by_assistant():
            if number == 0:
                continue
            before = self._text(conversation, number, ask=True)
            last = number == len(conversation.messages) - 1
            after = whole.text if last else self._text(conversation, number + 1)
            if not (after.startswith(before) and whole.text.startswith(after)):
                raise UnprovenError(
                    f"{conversation.where}: messages[{number}]: a template without generation markers, and "
                    f"it changes what stands before "
                    "an answer, so where the answer begins cannot be proved; put {% generation %} … {% "
                    "endgeneration %} around answers"
                )
            spans.append((len(before), self._end(after, len(before))))
        return spans

    def _text(self, conversation: Conversation, count: int, ask: bool = False) -> str:
        try:
            return self.template.render(conversation.messages[:count], self._rendering(conversation, ask))
        except InputError as error:
            raise UnprovenError(
                f"{conversation.where}: messages[{count - 1}]: a template without generation markers, and "
                f"{error}"
            ) from None

    def _end(self, text: str, start: int) -> int:
        """White space that the template sets behind the token that ends a turn is nothing the model is asked
        to write."""
        token = self.template.turn_end.token
        if token is None:
            return len(text)
        written = str(self.template.tokenizer.backend.id_to_token(token))
        place = text.rfind(written, start)
        ends_there = place >= 0 and not text[place + len(written) :].strip()
        return place + len(written) if ends_there else len(text)

    def _example(
        self, conversation: Conversation, marked: RenderedConversation, spans: Sequence[Span]
    ) -> Example:
        learned = np.zeros(len(marked.ids), dtype=np.bool_)
        starts = np.array([start for start, _ in marked.places], dtype=np.int64)
        ends = np.array([end for _, end in marked.places], dtype=np.int64)
        for start, end in spans:
            learned |= (starts < end) & (ends > start)
        return Example(conversation.where, np.array(marked.ids, dtype=np.int32), learned)
