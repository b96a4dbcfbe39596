"""POST /v1/completions: text that goes on, from one prompt or several, with how likely each token was."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from newleaf.errors import InputError
from newleaf.generate.backend.prompt_logprobs import score_steps
from newleaf.generate.engine.engine_tasks import EngineTask
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.generate.text.request import Request as Writing
from newleaf.generate.text.text_state import Piece
from newleaf.serve.answers.sampling_params import (
    check_prompt_length,
    check_text_bytes,
    check_total_tokens,
    limit_max_tokens,
    sampling_config,
)
from newleaf.serve.answers.usage import cached_tokens, completion_usage
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.http.event_stream import DONE, EventStream, cancel_on_disconnect, engine_task_result, event
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.protocol.schemas import CompletionRequest
from newleaf.text.offsets import TextOffsets, prompt_offsets
from newleaf.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16  # tokens that are written where nobody says how many, as OpenAI has it


@dataclass(frozen=True)
class CompletionGeneration:
    """The texts of one request: of each prompt (text, ids) what is being written for it."""

    prompts: Sequence[tuple[str, list[int]]]
    writings: Sequence[Writing]
    engine_tasks: list[EngineTask[list[TokenScore]]] = field(default_factory=list)  # scores of prompts

    @property
    def prompt_tokens(self) -> int:
        return sum(len(ids) for _, ids in self.prompts)

    @property
    def completion_tokens(self) -> int:
        return sum(sample.row.written for writing in self.writings for sample in writing.samples)

    def cancel(self) -> None:
        for writing in self.writings:
            writing.cancel()
        for engine_task in self.engine_tasks:
            engine_task.cancel()

    async def score(self, loaded_model: LoadedModel, ids: list[int], top: int) -> list[TokenScore]:
        """A prompt's scores, unless the client goes away."""
        model = loaded_model.model
        self.engine_tasks.append(
            loaded_model.run_in_engine(score_steps(model.network, ids, model.tokenizer.vocab_size, top))
        )
        try:
            return await engine_task_result(self.engine_tasks[-1])
        finally:
            self.engine_tasks[-1].cancel()  # also where it is we who are cancelled

    async def pieces(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What comes of all prompts, each piece with its prompt's number."""
        if len(self.writings) == 1:
            async for found in self.writings[0].batches():
                if found:
                    yield [(0, piece) for piece in found]
            return
        news: asyncio.Queue[tuple[int, list[Piece] | BaseException | None]] = asyncio.Queue()

        async def follow(number: int, writing: Writing) -> None:
            try:
                async for pieces in writing.batches():
                    news.put_nowait((number, pieces))
                news.put_nowait((number, None))
            except Exception as error:
                news.put_nowait((number, error))

        tasks = [asyncio.create_task(follow(*each)) for each in enumerate(self.writings)]
        try:
            left = len(tasks)
            while left:
                number, came = await news.get()
                if isinstance(came, BaseException):
                    raise came
                left -= came is None
                if came:
                    yield [(number, piece) for piece in came]
        finally:
            for task in tasks:
                task.cancel()


def completions_router(server_context: ServerContext) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Goes on with text. `echo` with `logprobs` scores the prompt."""
        record = request.state.record
        if body.stream_options is not None and not body.stream:
            raise ApiError(
                400, "stream_options: is for when stream is true", "stream_options", "invalid_value"
            )
        loaded_model = await server_context.registry.acquire(body.model)
        record.of(loaded_model.name, body.user)
        try:
            texts = await server_context.threads.run(lambda: begin(server_context, loaded_model, body))
        except BaseException:
            server_context.registry.release(loaded_model)
            raise
        maker = ChoiceBuilder(body, loaded_model, texts)
        if body.stream:
            events = _events(maker, body, record)
            end = functools.partial(server_context.done, loaded_model, texts, record)
            return EventStream(events, texts.cancel, end, record, server_context.limits.stall_seconds)
        whole = server_context.until_done(loaded_model, texts, record, _whole(maker, record))
        return JSONResponse(await cancel_on_disconnect(request, whole, texts.cancel))

    return routes


def begin(
    server_context: ServerContext, loaded_model: LoadedModel, body: CompletionRequest
) -> CompletionGeneration:
    """Hand the prompts to the engine; not for the event loop's thread. Raises ApiError."""
    limits, given = server_context.limits, prompt_list(body.prompt)
    for prompt in given:  # what is too long to read is told by its length, before anything is made of it
        if isinstance(prompt, str):
            check_text_bytes([prompt], loaded_model, limits, "prompt")
        else:
            check_prompt_length(len(prompt), loaded_model, limits, "prompt")
    prompts = [encode_prompt(loaded_model.model.tokenizer, prompt) for prompt in given]
    for _, ids in prompts:
        check_prompt_length(len(ids), loaded_model, limits, "prompt")
    if body.echo and body.logprobs is not None:
        check_total_tokens(sum(len(ids) for _, ids in prompts), limits, "prompt")
    if body.negative_prompt is not None:
        check_text_bytes([body.negative_prompt], loaded_model, limits, "negative_prompt")
        check_prompt_length(
            len(loaded_model.model.tokenizer.encode(body.negative_prompt)),
            loaded_model,
            limits,
            "negative_prompt",
        )
    extra = completion_options(body, loaded_model)
    configs: list[SamplingConfig] = []
    for _, ids in prompts:
        most = limit_max_tokens(
            body.max_tokens or DEFAULT_MAX_TOKENS, loaded_model.context - len(ids), limits
        )
        configs.append(sampling_config(body, loaded_model, limits, most, extra))
    each = configs[0].sequences
    if each * len(prompts) > limits.queue:
        raise ApiError(
            400,
            f"prompt: {each * len(prompts):,} texts are more than a request may ask for",
            "prompt",
            "invalid_value",
        )
    writings: list[Writing] = []
    if body.max_tokens == 0:  # the prompts are echoed and scored, and not gone on with
        return CompletionGeneration(prompts, writings)
    loaded_model.make_room(each * len(prompts))
    try:
        for number, ((_, ids), config) in enumerate(zip(prompts, configs, strict=True)):
            writings.append(loaded_model.submit(ids, config, first=number))
    except InputError as error:
        for writing in writings:
            writing.cancel()
        raise input_error(error, CompletionRequest.model_fields) from None
    return CompletionGeneration(prompts, writings)


def completion_options(body: CompletionRequest, loaded_model: LoadedModel) -> dict[str, Any]:
    """Options that only completions have. Beams draw nothing: what generation_config.json says of drawing is
    left out."""
    names = ("best_of", "json_schema", "logprobs", "length_penalty", "guidance_scale", "negative_prompt")
    found = {name: value for name in names if (value := getattr(body, name)) is not None}
    texts = 2 if found.get("guidance_scale", 1) != 1 else 1
    if body.use_beam_search:
        beams = max(body.n or 1, found.pop("best_of", 1))
        if body.temperature:
            raise ApiError(
                400,
                "temperature: beams draw nothing; leave it out, or give 0",
                "temperature",
                "invalid_value",
            )
        found |= {"beams": beams, "temperature": 0}
        if beams == 1:  # the likeliest text, however its score is divided
            found.pop("length_penalty", None)
        for name, off in (("top_p", 1), ("top_k", 0), ("min_p", 0), ("typical_p", 1)):
            if getattr(body, name) is None:
                found[name] = off
        texts *= beams
    if texts > loaded_model.slots:
        what, name = ("beams", "n") if body.use_beam_search else ("guidance", "guidance_scale")
        raise ApiError(
            400,
            f"{name}: {what} of {texts} texts; this server writes {loaded_model.slots} at once",
            name,
            "invalid_value",
        )
    return found


def prompt_list(given: Any) -> list[Any]:
    """A text, several, ids, or several lists of them, as a list of prompts."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return list(given)


def encode_prompt(tokenizer: Tokenizer, prompt: str | list[int]) -> tuple[str, list[int]]:
    """The prompt as text and ids. An empty one starts where texts start."""
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
        if not ids and tokenizer.bos_id is not None:
            ids = [tokenizer.bos_id]
        text = prompt
    else:
        if prompt and max(prompt) >= tokenizer.vocab_size:
            raise ApiError(
                400, f"prompt: its ids must be below {tokenizer.vocab_size:,}", "prompt", "invalid_value"
            )
        ids, text = list(prompt), tokenizer.decode(prompt)
    if not ids:
        raise ApiError(
            400,
            "prompt: is empty, and this tokenizer has no token that a text could start from",
            "prompt",
            "invalid_value",
        )
    return text, ids


class ChoiceBuilder:
    """OpenAI's choices of pieces: numbers, log-probabilities with offsets, and the echo of the prompt."""

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
            self.texts.prompt_tokens, self.texts.completion_tokens, cached_tokens(self.texts.writings)
        )

    async def echoes(self) -> list[dict[str, Any]]:
        """The prompts, where they are asked for, with their tokens' log-probabilities."""
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
        """Where the tokens of a prompt begin in its echo."""
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
        """`offsets` are the tokens' places, where they are known; those that are written follow the ones
        before."""
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
        """Alternatives by their text, the likeliest of those that look alike."""
        return [
            (self.loaded_model.model.tokenizer.token_name(token), value) for token, value in reversed(pairs)
        ]


async def _events(maker: ChoiceBuilder, body: CompletionRequest, record: Any) -> AsyncIterator[bytes]:
    usage = body.stream_options is not None and body.stream_options.include_usage
    more = {"usage": None} if usage else {}
    for choice in await maker.echoes():
        yield event({**maker.head, "choices": [choice], **more})
    async for pieces in maker.texts.pieces():
        record.wrote()
        yield b"".join(event({**maker.head, "choices": [maker.of(*each)], **more}) for each in pieces)
    last = event({**maker.head, "choices": [], "usage": maker.usage}) if usage else b""
    yield last + DONE


async def _whole(maker: ChoiceBuilder, record: Any) -> dict[str, Any]:
    choices = [maker.choice(index, "", (), None) for index in range(maker.count * len(maker.texts.prompts))]

    def add(part: dict[str, Any]) -> None:
        choice = choices[part["index"]]
        choice["text"] += part["text"]
        choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
        if part["logprobs"] is not None:
            for name, values in part["logprobs"].items():
                choice["logprobs"][name] += values

    for part in await maker.echoes():
        add(part)
    async for pieces in maker.texts.pieces():
        record.wrote()
        for each in pieces:
            add(maker.of(*each))
    return {**maker.head, "choices": choices, "usage": maker.usage}
