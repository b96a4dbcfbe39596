"""An open model: generate, chat, classify, save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, overload

from newleaf.api.adapted import adapt
from newleaf.api.end_tokens import end_token_ids
from newleaf.api.engines import Engines
from newleaf.api.generate_file import generate_file
from newleaf.api.keywords import (
    TEMPLATE_OPTIONS,
    ChatOptions,
    TemplateOptions,
    refuse_logprobs,
    rendering,
    warn_deprecated,
)
from newleaf.api.saving import save_model
from newleaf.errors import InputError
from newleaf.generate.backend.prompt_logprobs import score_prompt
from newleaf.generate.chat.answering import (
    ChatResponder,
    Reply,
    ReplyPiece,
    answer_config,
    gather,
    warn_full_context,
)
from newleaf.generate.chat.conversation import Conversation
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig, SamplingOptions, TextOptions, sampling_config
from newleaf.generate.speculation.draft_model import check_draft, check_drafting
from newleaf.generate.text.completion import Completion, collect, warn_past_context
from newleaf.generate.text.text_state import Piece, prompt_ids
from newleaf.model import GPT
from newleaf.model.kv_cache import CACHE_DTYPES
from newleaf.storage.pretrained_note import Note
from newleaf.text.chat_template import ChatTemplate
from newleaf.text.load_tokenizer import no_tokenizer
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.labels.text_classifier import Answer, Classification, LabelModel, Question


class Model:
    """A language model that is open: `network` (ids [B, T] → logits [B, T, V]), its `tokenizer`, its
    `family`'s name.

    `defaults` are the fields of its generation_config.json.
    """

    def __init__(
        self,
        network: GPT,
        tokenizer: Tokenizer | None,
        family: str,
        defaults: Mapping[str, Any] | None = None,
        labels: LabelModel | None = None,
        cache: str | None = None,
    ) -> None:
        self.network = network
        self.own_tokenizer = tokenizer  # None for a model of token ids only
        self.family = family
        self.defaults = dict(defaults or {})
        self.labels = labels  # of a classifier
        self.cache = CACHE_DTYPES[cache] if cache is not None else None  # None for the network's own type
        self.pretrained: Note = {}  # how it was made, where its files note that; handed on when it is saved
        self.replaced: tuple[str, ...] = ()  # weights of a base that an adapter over it brought whole
        self.path: Path | None = None  # where it was opened from

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InputError, saying what to do, for a model that has none."""
        if self.own_tokenizer is None:
            raise no_tokenizer(self.path or "this model")
        return self.own_tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self.own_tokenizer = tokenizer

    @overload
    def generate(
        self, prompt: str = "", *, n: None = None, draft: Model | None = None, **options: Unpack[TextOptions]
    ) -> str: ...

    @overload
    def generate(
        self, prompt: str = "", *, n: int, draft: Model | None = None, **options: Unpack[TextOptions]
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str = "",
        *,
        n: int | None = None,
        draft: Model | None = None,
        **options: Unpack[TextOptions],
    ) -> str | list[str]:
        """The continuation of `prompt`, without it; with `n`, a list of n, generated in one batch.

        Options are the fields of `SamplingConfig`. `draft` is a small model with the same tokenizer for
        speculative decoding; it changes no text. Raises InputError for an option that does not exist or has a
        wrong value.
        """
        refuse_logprobs(options, "generate")
        count = 1 if n is None else n
        texts = [found.text for found in self.complete(prompt, n=count, draft=draft, **options)]
        return texts[0] if n is None else texts

    def stream(
        self, prompt: str = "", *, draft: Model | None = None, **options: Unpack[TextOptions]
    ) -> Iterator[str]:
        """The continuation piece by piece, each piece complete UTF-8.

        With best_of or beams all of it comes at once, when it is known.
        """
        refuse_logprobs(options, "stream")
        if options.get("n", 1) != 1:
            raise InputError("n: stream yields one text; generate returns several")
        return (piece.text for piece in self.pieces(prompt, draft=draft, **options))

    def samples(self, prompt: str = "", n: int = 2, **options: Unpack[TextOptions]) -> list[str]:
        """`generate(prompt, n=n)`, by its old name."""
        warn_deprecated("samples(prompt, n)", "generate(prompt, n=n)")
        return self.generate(prompt, n=n, **options)

    def complete(
        self, prompt: str = "", *, draft: Model | None = None, **options: Unpack[SamplingOptions]
    ) -> list[Completion]:
        """What `generate` returns, with details: how each text ended and, if asked for, log-probabilities."""
        config = sampling_config(options)
        (found,) = collect(self._write(prompt, config, draft), 1)
        if config.prompt_logprobs is not None:
            ids = prompt_ids(self.tokenizer, prompt, config, self.network.config.context_length)
            scores = score_prompt(self.network, ids, self.tokenizer.vocab_size, config.prompt_logprobs)
            for text in found:
                text.prompt_tokens = scores
        return found

    def pieces(
        self, prompt: str = "", *, draft: Model | None = None, **options: Unpack[SamplingOptions]
    ) -> Iterator[Piece]:
        """What `stream` yields, with details: which of the `n` texts a piece is of, and how that ended."""
        if options.get("prompt_logprobs") is not None:
            raise InputError("prompt_logprobs: pieces have none; complete returns them")
        return self._write(prompt, sampling_config(options), draft)

    def generate_file(
        self,
        prompts: str | Path,
        out: str | Path,
        batch: int = 16,
        on_progress: Callable[[int, int], None] | None = None,
        draft: Model | None = None,
        overwrite: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> int:
        """Continue every prompt of a file, `batch` at a time, into JSON lines; returns how many now.

        A .txt file has one prompt a line; rows of .jsonl have a field `prompt`, and keep their others. A
        second start continues after the last complete line; `overwrite` starts again. `on_progress` is called
        with the number of prompts done and of all. Raises InputError, before anything is written, for a
        prompt that does not fit, and for an `out` of other prompts, another model or other options, which the
        file beside it (`out`.settings.json) names.
        """
        refuse_logprobs(options, "generate_file")
        config = sampling_config(options)

        def generate(texts: Sequence[str], first: int) -> Iterator[Piece]:
            return self._pieces(texts, config, draft, first)

        return generate_file(
            Path(prompts),
            Path(out),
            config,
            self.network,
            self.tokenizer,
            generate,
            batch,
            on_progress,
            overwrite,
        )

    def engine(
        self,
        slots: int = 16,
        limit: int | None = None,
        deterministic: bool = False,
        adapters: Mapping[str, str | Path] | None = None,
        draft: Model | None = None,
    ) -> Engine:
        """An engine for many requests at once; see `Engine`. `adapters` are folders or runs by the names that
        requests choose them by, `draft` a small model that proposes tokens.

        Raises InputError for an adapter or draft that does not fit this model, and for a model that gives
        labels.
        """
        adapted = {name: self.with_adapter(path) for name, path in (adapters or {}).items()}
        for model in (self, *adapted.values()):
            model._check_writes()
        for name, model in adapted.items():
            if model.replaced:
                what = f"brings {model.replaced[0]} whole, and an engine's adapters share the base's weights"
                raise InputError(
                    f"adapter {name}: {what}; open it by itself, or merge it (newleaf convert --merge)"
                )
        networks = {name: model.network for name, model in adapted.items()}
        guess = self._draft_network(draft)
        return Engine(
            self.network,
            self.tokenizer,
            slots,
            limit,
            deterministic,
            self._grammars,
            adapters=networks,
            draft=guess,
            cache=self.cache,
            lower_at_once=True,
        )

    def with_adapter(self, path: str | Path) -> Model:
        """This model with an adapter over it; the weights are the same ones in memory, and this model stays
        as it is.

        A classifier's adapter makes a model that gives labels. Raises InputError when `path` is no adapter,
        or one for another base.
        """
        network, tokenizer, labels, replaced = adapt(
            self.network, self.family, self.own_tokenizer, path, self.labels is not None
        )
        model = Model(network, tokenizer, self.family, self.defaults, labels)
        model.pretrained, model.path = self.pretrained, self.path
        model.cache, model.replaced = self.cache, replaced
        return model

    def classify(self, texts: Question | Sequence[Question]) -> list[Answer]:
        """The label of each text, in the data's type; lists of labels for several, numbers for a regression.

        A model for pairs takes two texts for each answer. One for choice takes a text and its continuations,
        and answers with a continuation's number from 0. Raises InputError for a model that is no classifier.
        """
        questions = [texts] if isinstance(texts, str) else texts
        return [found.answer for found in self.classify_with_probabilities(questions)]

    def classify_with_probabilities(self, texts: Sequence[Question]) -> list[Classification]:
        """`classify` with the probability of each label (`answer`, `probabilities`, `cut`)."""
        if self.labels is None:
            raise InputError(
                "this is a language model and gives no labels; newleaf finetune --task classify trains a "
                "classifier"
            )
        return self.labels.judge(texts)

    def judge(self, texts: Sequence[Question]) -> list[Classification]:
        """`classify_with_probabilities`, by its old name."""
        warn_deprecated("judge", "classify_with_probabilities")
        return self.classify_with_probabilities(texts)

    @property
    def takes_one_text(self) -> bool:
        """Whether a label is asked for one text at a time."""
        return self.labels is None or self.labels.head.shape == "classify"

    @property
    def gives_numbers(self) -> bool:
        """Whether this is a regression, whose answers are numbers."""
        return self.labels is not None and self.labels.head.regression

    def _write(self, prompt: str, config: SamplingConfig, draft: Model | None) -> Iterator[Piece]:
        if not isinstance(prompt, str):
            kind = type(prompt).__name__
            raise InputError(f"prompt: must be one text, not {kind}; generate_file continues many prompts")
        return warn_past_context(self._pieces(prompt, config, draft), self.network.config.context_length)

    def _pieces(
        self, prompts: str | Sequence[str], config: SamplingConfig, draft: Model | None, first: int = 0
    ) -> Iterator[Piece]:
        self._check_writes()
        check_drafting(draft is not None, config)
        return self._engine(draft).write(prompts, config, first, self.end_ids)

    def _check_writes(self) -> None:
        if self.labels is not None:
            raise InputError(
                "this model was tuned to give labels and writes nothing; newleaf classify asks it"
            )

    def _engine(self, draft: Model | None = None) -> Engine:
        """The engine to write with, which remembers what it has read."""
        return self._engines.get(self._draft_network(draft), self._grammars)

    @cached_property
    def _engines(self) -> Engines:
        return Engines(self.network, self.tokenizer, self.cache)

    def _draft_network(self, draft: Model | None) -> GPT | None:
        """Raises InputError for a draft that does not fit."""
        if draft is None:
            return None
        if not isinstance(draft, Model):
            raise InputError(f"draft: must be a model, as newleaf.load opens one, not {draft!r}")
        if draft.labels is not None:
            raise InputError("draft: this model gives labels and writes nothing; take a language model")
        check_draft(self.network, self.tokenizer, draft.network, draft.tokenizer)
        return draft.network

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text: those of generation_config.json (or config.json, where there is none), and
        the tokenizer's own where neither says."""
        return end_token_ids(self.defaults, self.tokenizer, self.network.config.vocab_size)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template, which `use_template` replaces. Raises InputError when the model has none."""
        return ChatTemplate.of(self.tokenizer)

    def use_template(self, source: str | Mapping[str, str]) -> None:
        """Talk with this Jinja template from now on (or several by name: "default", "tool_use")."""
        self.__dict__["chat_template"] = ChatTemplate(self.tokenizer, source)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        draft: Model | None = None,
        **options: Unpack[ChatOptions],
    ) -> str:
        """The answer to a conversation, [{"role": "user", "content": "Hello"}, …], without its reasoning.

        Options are those of `generate`; max_tokens is 1024 by default. Further ones: `tools` and `documents`
        for templates that take them; `template_variables`, such as {"enable_thinking": False};
        `continue_final_message=True` to continue the last message; `draft` as for `generate`. Raises
        InputError for wrong messages or options, and for a model without a chat template.
        """
        return self.reply(messages, draft=draft, **options).content

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        draft: Model | None = None,
        **options: Unpack[ChatOptions],
    ) -> Iterator[str]:
        """`chat`, piece by piece."""
        for piece in self.reply_pieces(messages, draft=draft, **options):
            if piece.kind == "content" and piece.text:
                yield piece.text

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        draft: Model | None = None,
        **options: Unpack[ChatOptions],
    ) -> Reply:
        """`chat` with details: content, reasoning, how it ended, and how many tokens it has."""
        return gather(self.reply_pieces(messages, draft=draft, **options))

    def reply_pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        draft: Model | None = None,
        **options: Unpack[ChatOptions],
    ) -> Iterator[ReplyPiece]:
        """The pieces of a `reply`, of content or of reasoning, as they come."""
        sampling: dict[str, Any] = {**options}
        template = {name: sampling.pop(name) for name in TEMPLATE_OPTIONS if name in sampling}
        config, how, responder = answer_config(sampling), rendering(template), self._responder()
        check_drafting(draft is not None, config)
        prompt = responder.prompt(messages, how)
        engine = self._engine(draft)
        pieces = responder.answer(prompt, config, engine, how.tools, how.continue_final_message)
        return warn_full_context(pieces, responder.context_length)

    def conversation(
        self, system: str | None = None, *, draft: Model | None = None, **options: Unpack[TemplateOptions]
    ) -> Conversation:
        """A conversation that keeps its messages and the KV cache from turn to turn: `talk.say("Hello")`.

        Options are those of the chat template; `draft` is as for `generate`.
        """
        return Conversation(self._responder(), self._engine(draft), system, rendering(options))

    def _responder(self) -> ChatResponder:
        return ChatResponder(self.network.config.context_length, self.chat_template, self.end_ids)

    def chat_options(self, options: Mapping[str, Any]) -> SamplingConfig:
        """A `SamplingConfig` of an answer, for the deprecated `talk.say(text, config)`. Raises InputError."""
        return answer_config(options)

    def save(self, path: str | Path, type: str | None = None) -> str | None:
        """Write a Hugging Face folder, or a GGUF file if the name ends in .gguf; an adapter is merged.

        Files appear complete or not at all. `type` is the number format of a GGUF's matrices: F32 (default),
        F16, BF16, Q8_0, Q4_0 or (experts) MXFP4. Returns None, or a sentence when stock transformers has no
        class for this network, or llama.cpp runs it a little differently. Raises InputError when `path` holds
        other things, or GGUF has no layout for the network.
        """
        return save_model(
            Path(path), type, self.network, self.own_tokenizer, self.labels, self.defaults, self.pretrained
        )

    def __repr__(self) -> str:
        config = self.network.config
        count = f"{self.network.parameter_count():,} parameters"
        return f"<newleaf.Model {self.family}, {count}, context {config.context_length}>"
