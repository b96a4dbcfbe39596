"""The model's own chat template: a conversation to the text and the ids that the model was trained to go on
from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from newleaf.errors import InputError
from newleaf.text.control_tokens import ControlTokens, Mask, strings_of
from newleaf.text.messages import Message, as_json_values, check_messages, with_reasoning
from newleaf.text.template_sandbox import TemplateSandbox
from newleaf.text.tokenizer import Tokenizer

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a template reads that is not the caller's to choose.
RESERVED_VARIABLES = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
)
FUNCTIONS = ("raise_exception", "strftime_now", "namespace", "range", "dict", "cycler", "joiner", "lipsum")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
TOOL_TEMPLATE, DEFAULT_TEMPLATE = "tool_use", "default"


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class RenderedConversation(Prompt):
    """A conversation with the place of each token in the text, [start, end), and those of the template's `{%
    generation %}` blocks."""

    places: list[tuple[int, int]]
    generated: list[tuple[int, int]]


@dataclass(frozen=True)
class TurnEnd:
    """What the template writes behind an answer: a token, or text where it has no token for it."""

    token: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class RenderOptions:
    """How a conversation is to be rendered. `variables` are what else the template reads, such as
    `enable_thinking`."""

    tools: Sequence[Any] | None = None
    documents: Sequence[Any] | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.add_generation_prompt and self.continue_final_message:
            raise InputError(
                "continue_final_message goes on with the last message, and add_generation_prompt begins a "
                "new one; choose one"
            )
        for name in self.variables:
            if name in RESERVED_VARIABLES:
                raise InputError(f"template variables: {name} has an option of its own")
            if name in NAMED_TOKENS:
                raise InputError(
                    f"template variables: {name} is the tokenizer's own, and no text takes its place"
                )
            if name in FUNCTIONS:
                raise InputError(
                    f"template variables: {name} is one of the template's functions, and no value takes its "
                    f"place"
                )


class ChatTemplate:
    """A tokenizer's chat template. `source` is Jinja, or several by name ("default", and "tool_use" for when
    there are tools).

    Text is that of stock transformers' `apply_chat_template`, character for character. Ids are too, except
    that what merely looks like a control token in a message, a tool or a document stays text.
    """

    def __init__(
        self, tokenizer: Tokenizer, source: str | Mapping[str, str], sandbox: TemplateSandbox | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.sources = {DEFAULT_TEMPLATE: source} if isinstance(source, str) else dict(source)
        self.sandbox = sandbox or TemplateSandbox()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template that came with the tokenizer. Raises InputError when none did."""
        found = tokenizer.settings.get("chat_template")
        if isinstance(found, list):
            if not all(isinstance(item, dict) and {"name", "template"} <= item.keys() for item in found):
                raise InputError(
                    "chat_template in tokenizer_config.json: its entries must each have a name and a template"
                )
            found = {str(item["name"]): str(item["template"]) for item in found}
        if not found:
            raise InputError(
                "this model has no chat template: it goes on with text (newleaf generate); "
                "to talk to it all the same, give one with --template FILE (a Jinja chat template)"
            )
        if not isinstance(found, str | dict):
            raise InputError(
                "chat_template in tokenizer_config.json: must be text, or a list of templates with names"
            )
        return cls(tokenizer, found)

    def source(self, tools: Any = None) -> str:
        """The template for a conversation with or without tools."""
        if tools is not None and TOOL_TEMPLATE in self.sources:
            return self.sources[TOOL_TEMPLATE]
        if DEFAULT_TEMPLATE not in self.sources:
            raise InputError(
                f"this model has chat templates named {', '.join(sorted(self.sources))} and none named "
                f"{DEFAULT_TEMPLATE}"
            )
        return self.sources[DEFAULT_TEMPLATE]

    def render(self, messages: Any, how: RenderOptions | None = None) -> str:
        """The conversation as text. Raises InputError for messages or templates that are wrong, in one
        line."""
        how = how or RenderOptions()
        return self._render(self._variables(messages, how), how)[0]

    def encode(self, messages: Any, how: RenderOptions | None = None) -> Prompt:
        """The conversation as text and ids. Raises InputError as `render` does."""
        found = self.encode_marked(messages, how)
        return Prompt(found.text, found.ids)

    def encode_marked(self, messages: Any, how: RenderOptions | None = None) -> RenderedConversation:
        """`encode`, and where everything stands."""
        how = how or RenderOptions()
        values, controls = self._variables(messages, how), self._controls(self.source(how.tools))
        given = {name: value for name, value in values.items() if name not in self._named_tokens}
        mask = Mask(strings_of(given | {"": self.source(how.tools)}))
        masked = values | {name: controls.mask(value, mask) for name, value in given.items()}
        text, spans = self._render(masked, how)
        fine = masked | {name: controls.mask_finely(masked[name], mask) for name in given}
        if fine != masked:
            try:
                finer, _ = self._render(fine, how)
            except InputError:  # the template looks at what was masked
                finer = ""
            text = finer if mask.restore(finer) == mask.restore(text) else text
        ids, places = controls.encode(text, mask)
        self.tokenizer.check_ids(ids)
        return RenderedConversation(mask.restore(text), ids, places, spans)

    def marks_answers(self, tools: Any = None) -> bool:
        """Whether the template says what the assistant's words are, in `{% generation %}` blocks."""
        return GENERATION.search(self.source(tools)) is not None

    @cached_property
    def turn_end(self) -> TurnEnd:
        """What tells the end of an answer, found by rendering one."""
        asked, answered, again = "qvxquestionqvx", "qvxanswerqvx", "qvxagainqvx"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        try:
            after = self.render(turns).partition(answered)[2]
        except InputError:  # a template that wants a question last, or a system message first
            return TurnEnd()
        controls = self._controls(self.source())
        first = after.strip()
        found = max((token for token in controls.ids if first.startswith(token)), key=len, default=None)
        if found is not None:
            return TurnEnd(token=controls.ids[found])
        try:
            between = (
                self.render([*turns, {"role": "user", "content": again}])
                .partition(answered)[2]
                .partition(again)[0]
            )
        except InputError:
            return TurnEnd()
        return TurnEnd(text=between.rstrip() or None) if between.strip() else TurnEnd()

    @cached_property
    def answer_space(self) -> str:
        """White space that the template puts between the beginning of an answer and its text, as Llama 2's
        does: the model writes it, and it is no part of what was said. Found by rendering an answer."""
        asked, answered = "qvxquestionqvx", "qvxanswerqvx"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        try:
            begun, whole = (
                self.render(turns[:1], RenderOptions(add_generation_prompt=True)),
                self.render(turns),
            )
        except InputError:  # a template that wants a system message first
            return ""
        between, found, _ = whole.removeprefix(begun).partition(answered)
        return between if found and whole.startswith(begun) and between.isspace() else ""

    def control_id(self, token: str) -> int | None:
        """The id of a control token of this template, or None."""
        return self._controls(self.source()).ids.get(token)

    def _variables(self, messages: Any, how: RenderOptions) -> dict[str, Any]:
        checked = [with_reasoning(message) for message in check_messages(messages)]
        if not re.search(r"\btext\b", self.source(how.tools)):  # such a template does not look into parts
            checked = [_joined(message) for message in checked]
        return {
            **self._named_tokens,
            **as_json_values(how.variables, "template variables"),
            "messages": checked,
            "tools": as_json_values(how.tools, "tools"),
            "documents": as_json_values(how.documents, "documents"),
            "add_generation_prompt": how.add_generation_prompt,
        }

    def _render(self, variables: Mapping[str, Any], how: RenderOptions) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where its `{% generation %}` blocks are (none, where a message is to be gone on
        with)."""
        source = self.source(how.tools)
        if not how.continue_final_message:
            return self.sandbox.render_marked(source, variables)
        mark = "qvxcontinueqvx "
        *earlier, last = variables["messages"]
        said, marked = _marked(last, mark)
        text = self.sandbox.render(source, {**variables, "messages": [*earlier, marked]})
        place = text.rfind(mark.strip())
        if place < 0 or said.strip() not in text:
            raise InputError(
                "continue_final_message: the chat template changes the last message, so it cannot be gone "
                "on with"
            )
        # Where the template trimmed the mark's space, it would have trimmed what stands before it.
        return (text[:place] if text.startswith(mark, place) else text[:place].rstrip()), []

    @cached_property
    def _named_tokens(self) -> dict[str, str]:
        tokenizer = self.tokenizer
        ids = {
            "bos_token": tokenizer.bos_id,
            "eos_token": tokenizer.eos_id,
            "pad_token": tokenizer.pad_id,
        } | tokenizer.beyond
        found = {
            name: str(tokenizer.backend.id_to_token(token))
            for name, token in ids.items()
            if token is not None
        }
        for name in NAMED_TOKENS:
            token = tokenizer.settings.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if name not in ids and isinstance(token, str):
                found[name] = token
        return found

    def _controls(self, source: str) -> ControlTokens:
        if source not in self._known_controls:
            self._known_controls[source] = ControlTokens(self.tokenizer.backend, source)
        return self._known_controls[source]

    @cached_property
    def _known_controls(self) -> dict[str, ControlTokens]:
        return {}


def _joined(message: Message) -> Message:
    content = message.get("content")
    return (
        {**message, "content": "".join(part["text"] for part in content)}
        if isinstance(content, list)
        else message
    )


def _marked(message: Message, mark: str) -> tuple[str, Message]:
    """The text of a message that is to be gone on with, and the message with a mark behind it."""
    content = message.get("content")
    if isinstance(content, list) and content:
        *earlier, last = content
        return last["text"], {**message, "content": [*earlier, {**last, "text": last["text"] + mark}]}
    if not isinstance(content, str):
        raise InputError("continue_final_message: the last message has no content to go on with")
    return content, {**message, "content": content + mark}
