"""A model that is open in this process, as a subject: log-likelihoods from the network, texts from the
engine."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions, LoglikelihoodRequest, RefusedRequest
from newleaf.generate.backend.runner import is_packed, say_once
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.generate.text.completion import Completion
from newleaf.kernels.matmul_speed import bf16_is_faster
from newleaf.measure.loglikelihood import Score, Tree, score_trees
from newleaf.model import GPT
from newleaf.text.chat_template import ChatTemplate, RenderOptions
from newleaf.text.tokenizer import Tokenizer

FINGERPRINT_SAMPLES = 512  # numbers of each tensor that the fingerprint looks at
PROMPTS_PER_BATCH = 64  # handed to the engine together


class LocalModel:
    """A network with its tokenizer. `ends` are tokens that end a text, beside the tokenizer's own. With
    `chat`, prompts to be answered are messages in this template. `cache` is the type of keys and values of
    texts that are written, None for the network's own."""

    def __init__(
        self,
        network: GPT,
        tokenizer: Tokenizer,
        name: str,
        family: str = "",
        ends: frozenset[int] = frozenset(),
        chat: ChatTemplate | None = None,
        cache: torch.dtype | None = None,
    ) -> None:
        self.network, self.tokenizer, self.name, self.family, self.ends, self.chat = (
            network,
            tokenizer,
            name,
            family,
            ends,
            chat,
        )
        self.cache = cache
        # tokens of an answer that were asked for, and that the context had room for
        self.cut: tuple[int, int] | None = None
        self.truncated = 0  # contexts and prompts whose beginning did not fit

    @cached_property
    def scored(self) -> GPT:
        """The network that likelihoods are asked of: a copy in fp32 where the weights are bf16 and this
        machine is slow at that."""
        device = self.network.device
        if (
            device.type != "cpu"
            or self.network.dtype != torch.bfloat16
            or is_packed(self.network)
            or bf16_is_faster(device)
        ):
            return self.network
        say_once(
            "this machine multiplies bf16 matrices more slowly than fp32 ones, so likelihoods are computed "
            "in fp32"
        )
        return copy.deepcopy(self.network).float()

    @property
    def context_length(self) -> int:
        return self.network.config.context_length

    def about(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "parameters": self.network.parameter_count(),
            "weights": str(self.network.dtype).removeprefix("torch."),
            "context_length": self.context_length,
            "threads": torch.get_num_threads(),
            "chat_template": self.chat is not None,
            "fingerprint": self.fingerprint,
        }

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(f"{self.tokenizer.fingerprint}{self.cache or ''}".encode(), digest_size=16)
        digest.update(f"{self.network.config} {self.chat.sources if self.chat is not None else ''}".encode())
        for name, tensor in self.network.state_dict().items():
            flat = tensor.detach().flatten()
            some = flat[:: max(1, len(flat) // FINGERPRINT_SAMPLES)].float().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + some.numpy().tobytes())
        return digest.hexdigest()

    def score(
        self, asks: Sequence[LoglikelihoodRequest]
    ) -> Iterator[tuple[int, list[Score] | RefusedRequest]]:
        trees: list[Tree] = []
        owners: list[tuple[int, tuple[int, ...]]] = []  # whose tree, and which of its continuations
        left = [len(ask.continuations) for ask in asks]
        found: list[dict[int, Score]] = [{} for _ in asks]
        for number, ask in enumerate(asks):
            try:
                for tree, which in self._trees(ask):
                    trees.append(tree)
                    owners.append((number, which))
            except InputError as error:
                yield number, RefusedRequest(str(error))
        for place, scores in score_trees(self.scored, trees):
            number, which = owners[place]
            found[number].update(zip(which, scores, strict=True))
            left[number] -= len(which)
            if not left[number]:
                yield number, [found[number][each] for each in range(len(found[number]))]

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context, and those that its continuation adds, as lm-evaluation-harness cuts them: spaces
        at the context's end belong to the continuation, and an empty context is the beginning-of-text token.
        Raises InputError for what cannot be encoded."""
        if not context:
            ids = self.tokenizer.encode(continuation, special_tokens=False)
            first = self.tokenizer.separator_id
            context_ids, own = (ids[:1], ids[1:]) if ids[:1] == [first] else ([first], ids)
        else:
            stripped = context.rstrip()
            context_ids = self.tokenizer.encode(stripped)
            own = self.tokenizer.encode(context + continuation)[len(context_ids) :]
        if not own or not context_ids:
            raise InputError(f"the tokenizer has no tokens for {continuation if not own else context!r}")
        lost = (
            continuation.strip()
            and not self.tokenizer.lossless
            and not self.tokenizer.decode(own, skip_special=False).strip()
        )
        if lost or (self._unknown is not None and self._unknown in own):
            raise InputError(f"the tokenizer cannot encode {continuation!r}")
        if len(own) > self.context_length:
            raise InputError(
                f"the continuation has {len(own):,} tokens, and the context is {self.context_length:,}"
            )
        return context_ids, own

    def _trees(self, ask: LoglikelihoodRequest) -> list[tuple[Tree, tuple[int, ...]]]:
        pairs = [self.encode_pair(ask.context, continuation) for continuation in ask.continuations]
        limit = self.context_length + 1  # the last token is only predicted
        if all(len(context) + len(own) <= limit for context, own in pairs):
            return [(Tree(pairs[0][0], [own for _, own in pairs]), tuple(range(len(pairs))))]
        self.truncated += 1
        # each loses as much as it must, so each is read by itself
        whole = [(context + own)[-limit:] for context, own in pairs]
        return [
            (Tree(ids[: len(ids) - len(own)], [own]), (number,))
            for number, (ids, (_, own)) in enumerate(zip(whole, pairs, strict=True))
        ]

    def write(
        self, prompts: Sequence[str], how: GenerationOptions
    ) -> Iterator[tuple[int, list[str] | RefusedRequest]]:
        yield from self.write_ids([self._prompt(prompt) for prompt in prompts], how)

    def _prompt(self, text: str) -> list[int]:
        if self.chat is None:
            return self.tokenizer.encode(text)
        return self.chat.encode(
            [{"role": "user", "content": text}], RenderOptions(add_generation_prompt=True)
        ).ids

    @cached_property
    def _all_ends(self) -> frozenset[int]:
        turn = self.chat.turn_end.token if self.chat is not None else None
        return self.ends | ({turn} if turn is not None else frozenset())

    def write_ids(
        self, prompts: Sequence[Sequence[int]], how: GenerationOptions
    ) -> Iterator[tuple[int, list[str] | RefusedRequest]]:
        """`write` for prompts that are ids already. One that leaves no room for max_tokens loses its
        beginning; where max_tokens would fill the context, they are cut to what the longest prompt leaves, or
        to half of the context."""
        most = how.max_tokens
        if most >= self.context_length:
            longest = max((len(ids) for ids in prompts), default=0)
            most = max(1, self.context_length - max(1, min(longest, self.context_length // 2)))
            self.cut = (how.max_tokens, most)
        room = self.context_length - most
        config = SamplingConfig(
            max_tokens=most,
            temperature=how.temperature,
            top_p=how.top_p,
            stop=how.stop,
            n=how.n,
            seed=how.seed,
        )
        self.truncated += sum(len(ids) > room for ids in prompts)
        # Similar lengths together, so that texts of a round begin and end together.
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        for first in range(0, len(order), PROMPTS_PER_BATCH):
            some = order[first : first + PROMPTS_PER_BATCH]
            ids = [list(prompts[number][-room:]) or [self.tokenizer.separator_id] for number in some]
            yield from ((some[place], texts) for place, texts in self._write(ids, config))

    def _write(
        self, prompts: Sequence[Sequence[int]], config: SamplingConfig
    ) -> Iterator[tuple[int, list[str] | RefusedRequest]]:
        texts: dict[tuple[int, int], Completion] = {}
        for piece in self._engine.write(prompts, config, ends=self._all_ends):
            text = texts.setdefault((piece.prompt, piece.sample), Completion())
            text.text += piece.text
            text.end = piece.end or text.end
            own = [texts.get((piece.prompt, sample)) for sample in range(config.n)]
            if piece.end and all(each is not None and each.end for each in own):
                yield piece.prompt, [self._by_itself(each.text) for each in own if each is not None]

    def _by_itself(self, text: str) -> str:
        """The harness decodes what was written without its prompt."""
        return text.removeprefix(" ") if self.tokenizer.drops_first_space else text

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.network, self.tokenizer, cache=self.cache)

    @cached_property
    def _unknown(self) -> int | None:
        model = self.tokenizer.backend.model
        name = getattr(model, "unk_token", None)
        return self.tokenizer.backend.token_to_id(name) if isinstance(name, str) else None
