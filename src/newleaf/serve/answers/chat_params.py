"""Parameters of a chat, which chat completions and responses share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from newleaf.serve.answers.answer_schema import AnswerSchema, as_object
from newleaf.text.messages import Message


@dataclass(frozen=True)
class ChatParams:
    """Parameters of a chat.

    `tools` are {"type": "function", "function": {…}}. `choice` is "auto", "none", "required" or a
    function's name. `schema` is the answer's JSON Schema (None: text).
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    choice: str = "auto"
    named: bool = False  # whether `choice` is a function's name
    parallel: bool = True
    schema: Any = None
    reasoning_effort: str | None = None
    continue_final_message: bool = False
    template_variables: Mapping[str, Any] | None = None
    schema_param: str = "response_format.json_schema.schema"
    schema_strict: bool = False
    # The path of each function's parameters in the request.
    tool_params: Mapping[str, str] = field(default_factory=dict)
    effort_param: str = "reasoning_effort"
    truncate: bool = False  # drop the oldest turns of a conversation that is too long
    strict: frozenset[str] = frozenset()  # functions with strict: true

    @property
    def call_required(self) -> bool:
        """Whether the answer has to be a call."""
        return bool(self.tools) and (self.named or self.choice == "required")

    def answer_schema(self) -> AnswerSchema | None:
        """The schema of a JSON answer."""
        if self.schema is None:
            return None
        return AnswerSchema(
            self.schema, self.schema_param, self.schema_param.replace(".", "/"), self.schema_strict
        )

    def function_schemas(self) -> dict[str, AnswerSchema]:
        """The schemas of the functions that may be called, by name."""
        found = {}
        for tool in self.tools:
            name = tool["function"]["name"]
            if not self.named or name == self.choice:
                param = self.tool_params.get(name, "tools")
                place = param.replace("[", "/").replace("]", "").replace(".", "/")
                found[name] = AnswerSchema(
                    as_object(tool["function"].get("parameters")), param, place, name in self.strict
                )
        return found
