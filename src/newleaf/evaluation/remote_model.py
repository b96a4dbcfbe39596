"""An address of an OpenAI-compatible server as a subject: likelihoods by echo and logprobs of its
completions, texts by completions."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions, LoglikelihoodRequest, RefusedRequest
from newleaf.measure.loglikelihood import Score

AT_ONCE = 8  # requests that are under way
MOST_STOPS = 4  # that the protocol takes; further ones are cut off here
SECONDS = 600.0
TRIES = 3


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


class RemoteSubject:
    """`address` is the server's, with or without /v1; #NAME behind it chooses a model, otherwise the first it
    lists. A key is taken from OPENAI_API_KEY. With `chat`, prompts to be answered are messages
    (chat/completions). Raises InputError when nothing answers there."""

    def __init__(self, address: str, seconds: float = SECONDS, chat: bool = False) -> None:
        bare, _, chosen = address.partition("#")
        bare = bare.rstrip("/")
        self.base = bare if bare.endswith("/v1") else f"{bare}/v1"
        self.name, self._seconds, self.chat = address, seconds, chat
        listed = self._call("models")
        try:
            names = [str(each["id"]) for each in listed["data"]]
        except (KeyError, TypeError):
            raise InputError(f"{self.base}/models: the answer is not a list of models") from None
        if not names or (chosen and chosen not in names):
            raise InputError(f"{self.base}: has no model {chosen!r}; it lists {', '.join(names) or 'none'}")
        self.model = chosen or names[0]

    @property
    def fingerprint(self) -> str:
        return f"{self.base} {self.model}" + (" chat" if self.chat else "")

    def about(self) -> dict[str, Any]:
        return {"address": self.base, "served_model": self.model, "chat_template": self.chat}

    def score(
        self, asks: Sequence[LoglikelihoodRequest]
    ) -> Iterator[tuple[int, list[Score] | RefusedRequest]]:
        yield from self._each([partial(self._score, ask) for ask in asks])

    def write(
        self, prompts: Sequence[str], how: GenerationOptions
    ) -> Iterator[tuple[int, list[str] | RefusedRequest]]:
        yield from self._each([partial(self._write, prompt, how) for prompt in prompts])

    def _each(self, calls: Sequence[Callable[[], Any]]) -> Iterator[tuple[int, Any]]:
        """Some at a time; what is still waiting is dropped when the caller stops."""
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            futures = {pool.submit(call): number for number, call in enumerate(calls)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _score(self, ask: LoglikelihoodRequest) -> list[Score] | RefusedRequest:
        scores = []
        for continuation in ask.continuations:
            found = self._score_one(ask.context, continuation)
            if isinstance(found, RefusedRequest):
                return found
            scores.append(found)
        return scores

    def _score_one(self, context: str, continuation: str) -> Score | RefusedRequest:
        """The tokens that begin after the context, spaces at its end belonging to the continuation. One
        further token is asked for, since some servers write at least one; it begins after the text's end and
        is left out."""
        text, begins = context + continuation, len(context.rstrip())
        answer = self._call(
            "completions", {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        )
        try:
            found = answer["choices"][0]["logprobs"]
            rows = list(
                zip(
                    found["tokens"],
                    found["token_logprobs"],
                    found["text_offset"],
                    found["top_logprobs"],
                    strict=True,
                )
            )
        except (KeyError, IndexError, TypeError, ValueError):
            raise InputError(
                f"{self.base}: gives no log-probabilities of the prompt (echo with logprobs), which this "
                f"task needs"
            ) from None
        if not rows or rows[0][2] != 0 or len(rows) < 2:
            raise InputError(f"{self.base}: does not give the prompt back (echo), which this task needs")
        own = [row for row in rows if begins <= row[2] < len(text)]
        if not own or any(row[1] is None for row in own):
            return RefusedRequest(f"the server gives no log-probability for {continuation!r}")
        greedy = all(row[1] >= max((row[3] or {}).values(), default=row[1]) - 1e-9 for row in own)
        return Score(float(sum(row[1] for row in own)), greedy, len(own))

    def _write(self, prompt: str, how: GenerationOptions) -> list[str] | RefusedRequest:
        path = "chat/completions" if self.chat else "completions"
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        )
        asked |= {"max_tokens": how.max_tokens, "temperature": how.temperature, "seed": how.seed}
        asked |= {"top_p": how.top_p} if how.top_p != 1 else {}
        asked |= {"n": how.n} if how.n > 1 else {}
        asked |= {"stop": list(how.stop[:MOST_STOPS])} if how.stop else {}
        answer = self._call(path, asked)
        try:
            choices = sorted(answer["choices"], key=lambda each: each.get("index", 0))
            texts = [
                str((each["message"]["content"] or "") if self.chat else each["text"]) for each in choices
            ]
        except (KeyError, TypeError):
            raise InputError(f"{self.base}/{path}: the answer has no choices with text") from None
        for stop in how.stop:
            texts = [text.split(stop)[0] for text in texts]
        return (
            texts
            if len(texts) == how.n
            else RefusedRequest(f"the server gave {len(texts)} texts, not {how.n}")
        )

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self.base}/{path}"
        data = json.dumps({"model": self.model} | body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        if os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
        for attempt in range(1, TRIES + 1):
            try:
                request = urllib.request.Request(url, data, headers)
                with urllib.request.urlopen(request, timeout=self._seconds) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code in (429, 503) and attempt < TRIES:
                    time.sleep(attempt)
                    continue
                raise InputError(f"{url}: answers {error.code}: {_said(error)}") from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", error)
                what = (
                    "is not JSON"
                    if isinstance(error, json.JSONDecodeError)
                    else f"does not answer ({reason})"
                )
                raise InputError(f"{url}: {what}") from None
        raise AssertionError


def _said(error: urllib.error.HTTPError) -> str:
    """The server's own words, on one line."""
    text = error.read(2000).decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"]["message"])
    return " ".join(text.split())[:200]
