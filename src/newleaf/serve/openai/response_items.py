"""The output items of a response (reasoning, text, calls), and the events of their deltas."""

from __future__ import annotations

import secrets
from typing import Any

from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.serve.answers.chat_answers import Delta
from newleaf.serve.openai.chat_json import logprobs_json
from newleaf.serve.openai.response_input import encode_reasoning
from newleaf.serve.tool_calls.tool_call import ToolCall, ToolCallDelta, ToolCallEnd, ToolCallStart
from newleaf.text.tokenizer import Tokenizer

Event = dict[str, Any]


class ResponseItems:
    """The output so far. Methods return events, without sequence numbers.

    `scored` adds tokens' log-probabilities to text, `packed` adds `encrypted_content` to reasoning.
    """

    def __init__(self, tokenizer: Tokenizer, scored: bool = False, packed: bool = False) -> None:
        self._tokenizer, self._scored, self._packed = tokenizer, scored, packed
        self._scores: list[TokenScore] = []  # of tokens whose text is still to come
        self.output: list[dict[str, Any]] = []
        self.end: str | None = None
        self._open: str | None = None  # the kind of the last item, while it grows

    def push(self, delta: Delta) -> list[Event]:
        self.end = delta.end or self.end
        if delta.part is None:
            return self.close() if delta.end else []
        match delta.part:
            case ToolCall(name, arguments):
                return [*self.close(), *self._call(name), *self._arguments(arguments), *self._whole_call()]
            case ToolCallStart(name):
                return [*self.close(), *self._call(name)]
            case ToolCallDelta(arguments):
                return self._arguments(arguments)
            case ToolCallEnd():
                return self._whole_call()
        if self._scored and delta.part.kind == "content":
            self._scores += delta.scores
        if not delta.part.text:
            return []
        events = [] if self._open == delta.part.kind else [*self.close(), *self._begin(delta.part.kind)]
        part = self.output[-1]["content"][0]
        part["text"] += delta.part.text
        if delta.part.kind == "reasoning":
            return [*events, self._of_text("delta", delta=delta.part.text)]
        scores, self._scores = logprobs_json(self._scores, self._tokenizer), []
        part["logprobs"] += scores
        return [*events, self._of_text("delta", delta=delta.part.text, logprobs=scores)]

    def close(self) -> list[Event]:
        """Complete the last item."""
        if self._open is None:
            return []
        if self._open == "call":  # it was cut
            return self._whole_call("incomplete")
        item = self.output[-1]
        item["status"] = "completed"
        part = item["content"][0]
        if self._open == "content":
            part["logprobs"] += logprobs_json(self._scores, self._tokenizer)
            self._scores = []
        more = {"logprobs": part["logprobs"]} if self._open == "content" else {}
        if self._packed and self._open == "reasoning":
            item["encrypted_content"] = encode_reasoning(part["text"])
        events = [
            self._of_text("done", text=part["text"], **more),
            self._event("response.content_part.done", item_id=item["id"], content_index=0, part=part),
            self._event("response.output_item.done", item=item),
        ]
        self._open = None
        return events

    def break_off(self) -> list[Event]:
        """End the last item as incomplete."""
        if self._open is None:
            return []
        self.output[-1]["status"], self._open = "incomplete", None
        return [self._event("response.output_item.done", item=dict(self.output[-1]))]

    def _begin(self, kind: str) -> list[Event]:
        common: dict[str, Any] = {"status": "in_progress", "content": []}
        if kind == "reasoning":
            item: dict[str, Any] = {
                "id": f"rs_{secrets.token_hex(12)}",
                "type": "reasoning",
                "summary": [],
                **common,
            }
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", **common}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.output.append(item)
        self._open = kind
        events = [
            self._event("response.output_item.added", item={**item, "content": []}),
            self._event("response.content_part.added", item_id=item["id"], content_index=0, part=dict(part)),
        ]
        item["content"] = [part]
        return events

    def _call(self, name: str) -> list[Event]:
        item = {
            "id": f"fc_{secrets.token_hex(12)}",
            "type": "function_call",
            "call_id": f"call_{secrets.token_hex(12)}",
            "name": name,
            "arguments": "",
            "status": "in_progress",
        }
        self.output.append(item)
        self._open = "call"
        return [self._event("response.output_item.added", item=dict(item))]

    def _arguments(self, text: str) -> list[Event]:
        item = self.output[-1]
        item["arguments"] += text
        return [self._event("response.function_call_arguments.delta", item_id=item["id"], delta=text)]

    def _whole_call(self, status: str = "completed") -> list[Event]:
        item = self.output[-1]
        item["status"], self._open = status, None
        done = self._event("response.output_item.done", item=dict(item))
        if status != "completed":
            return [done]
        named = {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
        return [self._event("response.function_call_arguments.done", **named), done]

    def _of_text(self, what: str, **fields: Any) -> Event:
        reasoning = self._open == "reasoning"
        kind = "response.reasoning_text" if reasoning else "response.output_text"
        return self._event(f"{kind}.{what}", item_id=self.output[-1]["id"], content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "output_index": len(self.output) - 1, **fields}
