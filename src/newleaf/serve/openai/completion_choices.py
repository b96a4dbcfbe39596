"""The choices of a completion: text, log-probabilities with offsets, and the echo of the prompt."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.text_state import Piece
from newleaf.serve.answers.usage import cached_tokens, completion_usage
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.openai.completion_generation import CompletionGeneration
from newleaf.serve.openai.completion_input import prompt_list
from newleaf.serve.protocol.schemas import CompletionRequest
from newleaf.text.offsets import TextOffsets, prompt_offsets


class ChoiceBuilder:
    """Builds OpenAI's choices: indices, log-probabilities with offsets, and the echo of the prompt."""

    def __init__(
        self, body: CompletionRequest, loaded_model: LoadedModel, texts: CompletionGeneration
    ) -> None:
        self.body, self.loaded_model, self.texts = body, loaded_model, texts
        self.count = body.n or 1
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": loaded_model.name,
            "object": "text_completion",
        }
        self.head["system_fingerprint"] = loaded_model.fingerprint
        self._offsets: dict[int, TextOffsets] = {}

    @property
    def usage(self) -> dict[str, Any]:
        return completion_usage(
            self.texts.prompt_tokens, self.texts.completion_tokens, cached_tokens(self.texts.requests)
        )

    async def echoes(self) -> list[dict[str, Any]]:
        """The prompts with their log-probabilities, where they are requested."""
        end = "length" if self.body.max_tokens == 0 else None
        if not self.body.echo:
            return (
                [self.choice(index, "", (), end) for index in range(self.count * len(self.texts.prompts))]
                if end
                else []
            )
        found = []
        model = self.loaded_model.model
        for number, (text, ids) in enumerate(self.texts.prompts):
            scores: list[TokenScore] = []
            if self.body.logprobs is not None:
                top = self.body.logprobs
                scores = await self.texts.score(self.loaded_model, ids, top)
            offsets = self._echoed(text, ids, number) if scores else []
            for each in range(self.count):
                index = number * self.count + each
                self._offsets[index] = TextOffsets(model.tokenizer, len(text), ids)
                found.append(self.choice(index, text, scores, end, offsets))
        return found

    def _echoed(self, text: str, ids: Sequence[int], number: int) -> list[int]:
        """Text offsets of a prompt's tokens in its echo."""
        if isinstance(prompt_list(self.body.prompt)[number], str):
            return prompt_offsets(self.loaded_model.model.tokenizer, text, ids)
        return list(map(TextOffsets(self.loaded_model.model.tokenizer), ids))

    def of(self, number: int, piece: Piece) -> dict[str, Any]:
        return self.choice(number * self.count + piece.sample, piece.text, piece.scores, piece.end)

    def choice(
        self,
        index: int,
        text: str,
        scores: Sequence[TokenScore],
        end: str | None,
        offsets: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """A choice; `offsets` are its tokens' text offsets, by default those that follow earlier ones."""
        reason = None if end is None else "length" if end in ("length", "stuck") else "stop"
        logprobs = self._logprobs(index, scores, offsets) if self.body.logprobs is not None else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(
        self, index: int, scores: Sequence[TokenScore], offsets: Sequence[int] | None
    ) -> dict[str, Any]:
        tokenizer = self.loaded_model.model.tokenizer
        names = [tokenizer.token_name(score.id) for score in scores]
        if offsets is None:
            if index not in self._offsets:
                self._offsets[index] = TextOffsets(tokenizer, 0, self.texts.prompts[index // self.count][1])
            offsets = [self._offsets[index](score.id) for score in scores]
        tops = [
            None if score.logprob is None else {**dict(self._named(score.top)), name: score.logprob}
            for name, score in zip(names, scores)
        ]
        return {
            "tokens": names,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": tops,
            "text_offset": list(offsets),
            "token_ids": [score.id for score in scores],
        }

    def _named(self, pairs: Sequence[tuple[int, float]]) -> list[tuple[str, float]]:
        """Top alternatives by their text, the likeliest last, so that it wins where texts are equal."""
        return [
            (self.loaded_model.model.tokenizer.token_name(token), value) for token, value in reversed(pairs)
        ]
