"""A model that is open: it writes, answers, and is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from newleaf.adapters.adapter import attach, share, whole_weights
from newleaf.api.engines import Engines
from newleaf.errors import InputError
from newleaf.generate.backend.prompt_logprobs import score_prompt
from newleaf.generate.batch.output_settings import begin_output, settings_of
from newleaf.generate.batch.prompt_file import add_lines, batches, read_prompts
from newleaf.generate.chat.answering import (
    MAX_TOKENS,
    Answerer,
    ChatResponder,
    Reply,
    ReplyPiece,
    check_options,
    gather,
    told_full,
)
from newleaf.generate.chat.conversation import Conversation
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig, check_stop_strings
from newleaf.generate.speculation.draft_model import check_draft, check_drafting
from newleaf.generate.text.completion import Completion, collect, log_past_context, warn_past_context
from newleaf.generate.text.text_state import Piece, prompt_ids
from newleaf.model import GPT
from newleaf.model.kv_cache import CACHES
from newleaf.recipe import build
from newleaf.storage.adapter_folder import adapter_folder, adapter_tokenizer, load_adapter
from newleaf.storage.classifier_adapter import head_of, with_head
from newleaf.storage.classifier_folder import BODY, SCORE, save_classifier
from newleaf.storage.model_folder import save_folder
from newleaf.storage.pretrained_note import Note
from newleaf.text.chat_template import ChatTemplate, Rendering
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.labels.text_classifier import Answer, Judged, LabelModel, Question
from newleaf.version import VERSION

TEMPLATE_OPTIONS = ("tools", "documents", "continue_final_message", "template_variables")


class Model:
    """A language model that is open: `network` (ids [B, T] → logits [B, T, V]), its `tokenizer`, its
    `family`'s name.

    `defaults` are the fields of its generation_config.json.
    """

    def __init__(
        self,
        network: GPT,
        tokenizer: Tokenizer,
        family: str,
        defaults: Mapping[str, Any] | None = None,
        labels: LabelModel | None = None,
        cache: str | None = None,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.family = family
        self.defaults = dict(defaults or {})
        self.labels = labels  # of a classifier
        # of keys and values; None for the network's own
        self.cache = CACHES[cache] if cache is not None else None
        self.pretrained: Note = {}  # how it was made, where its files note that; handed on when it is saved
        self.replaced: tuple[str, ...] = ()  # weights of a base that an adapter over it brought whole
        self._engines = Engines(network, tokenizer, self.cache)

    @overload
    def generate(self, prompt: str = "", *, n: None = None, **options: Any) -> str: ...

    @overload
    def generate(self, prompt: str = "", *, n: int, **options: Any) -> list[str]: ...

    def generate(self, prompt: str = "", *, n: int | None = None, **options: Any) -> str | list[str]:
        """The continuation of `prompt`, without it; with `n`, a list of n. Options are those of
        `SamplingConfig`, and `draft`: a small model with the same tokenizer that proposes tokens, which
        changes no text.

        Raises InputError for an option that does not exist or cannot be.
        """
        _text_alone(options, "generate")
        texts = [found.text for found in self.complete(prompt, n=1 if n is None else n, **options)]
        return texts[0] if n is None else texts

    def stream(self, prompt: str = "", **options: Any) -> Iterator[str]:
        """The continuation piece by piece, each piece complete UTF-8. With best_of or beams all of it comes
        at once, when it is known."""
        _text_alone(options, "stream")
        if options.get("n", 1) != 1:
            raise InputError("n: stream writes one text; generate, complete and pieces write several")
        return (piece.text for piece in self.pieces(prompt, **options))

    def samples(self, prompt: str = "", n: int = 2, **options: Any) -> list[str]:
        """`n` continuations, written side by side."""
        return self.generate(prompt, n=n, **options)

    def complete(self, prompt: str = "", *, draft: Model | None = None, **options: Any) -> list[Completion]:
        """The `n` continuations with how each ended and, with logprobs or prompt_logprobs, how likely each
        token was."""
        top = options.get("prompt_logprobs")
        (found,) = collect(self._write(prompt, self._config(options), draft), 1)
        if top is not None:
            config = self._config(options)
            ids = prompt_ids(self.tokenizer, prompt, config, self.network.config.context_length)
            for text in found:
                text.prompt_tokens = score_prompt(self.network, ids, self.tokenizer.vocab_size, int(top))
        return found

    def pieces(self, prompt: str = "", *, draft: Model | None = None, **options: Any) -> Iterator[Piece]:
        """What `stream` is made of: pieces that say which of the `n` texts they belong to and how it
        ended."""
        if options.get("prompt_logprobs") is not None:
            raise InputError("prompt_logprobs: pieces do not carry them; complete has them")
        return self._write(prompt, self._config(options), draft)

    def generate_file(
        self,
        prompts: str | Path,
        out: str | Path,
        batch: int = 16,
        on_progress: Callable[[int, int], None] | None = None,
        draft: Model | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> int:
        """Continue every prompt of a file (.txt: one a line; .jsonl: field `prompt`, other fields kept),
        `batch` at a time, to JSON lines.

        A second start goes on after the last complete line; `overwrite` begins again. `on_progress` hears how
        many of all prompts are done. Returns how many were written now. Raises InputError, before anything is
        written, for a prompt that cannot be, and for an `out` of other prompts, another model or other
        options, which the file beside it (`out`.settings.json) names.
        """
        _text_alone(options, "generate_file")
        config, rows, out = self._config(options), read_prompts(Path(prompts)), Path(out)
        if batch < 1:
            raise InputError(f"batch: must be at least 1, not {batch}")
        for row in rows:
            try:
                prompt_ids(self.tokenizer, row.text, config, self.network.config.context_length)
            except InputError as error:
                raise InputError(f"{row.where}: {error}") from None
        done, past = (
            begin_output(out, rows, settings_of(self.network, self.tokenizer.fingerprint, config), overwrite),
            0,
        )
        for first, some in batches(rows, done, batch):
            if on_progress is not None:
                on_progress(first, len(rows))
            texts = collect(self._pieces([row.text for row in some], config, draft, first), len(some))
            add_lines(out, some, texts)
            past += sum(text.past_context for each in texts for text in each)
        log_past_context(past, self.network.config.context_length)
        return len(rows) - done

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
        adapter, folder = load_adapter(path, self.network, self.family), adapter_folder(path)
        if self.labels is not None and adapter.score is None:
            raise InputError(f"{folder}: is the adapter of a language model, and its base here gives labels")
        network = share(self.network)
        replaced = attach(network, adapter)
        network.eval()
        tokenizer = adapter_tokenizer(folder, network.config) or self.tokenizer
        labels = (
            LabelModel(with_head(network, adapter), tokenizer, head_of(folder, adapter))
            if adapter.score is not None
            else None
        )
        model = Model(network, tokenizer, self.family, self.defaults, labels)
        model.pretrained = self.pretrained
        model.cache = self.cache
        model.replaced = tuple(replaced)
        return model

    def classify(self, texts: Question | Sequence[Question]) -> list[Answer]:
        """A label for each text, in the type that the data had; with several labels a text, a list of them;
        of a regression its number.

        A model for pairs takes two texts in place of each, one for choice a text and its continuations, whose
        number from 0 is the answer. Raises InputError for a model that was not tuned for labels.
        """
        return [found.answer for found in self.judge([texts] if isinstance(texts, str) else texts)]

    def judge(self, texts: Sequence[Question]) -> list[Judged]:
        """`classify` with the probability of each label."""
        if self.labels is None:
            raise InputError(
                "this is a language model and gives no labels; newleaf finetune --task classify makes one "
                "that does"
            )
        return self.labels.judge(texts)

    @property
    def takes_one_text(self) -> bool:
        """Whether a label is asked for one text at a time."""
        return self.labels is None or self.labels.head.shape == "classify"

    @property
    def gives_numbers(self) -> bool:
        """Whether this is a regression, whose answers are numbers."""
        return self.labels is not None and self.labels.head.regression

    def _write(
        self, prompts: str | Sequence[str], config: SamplingConfig, draft: Model | None = None, first: int = 0
    ) -> Iterator[Piece]:
        return warn_past_context(
            self._pieces(prompts, config, draft, first), self.network.config.context_length
        )

    def _pieces(
        self, prompts: str | Sequence[str], config: SamplingConfig, draft: Model | None, first: int
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

    @staticmethod
    def _config(options: Mapping[str, Any]) -> SamplingConfig:
        check_stop_strings(options.get("stop", ()))
        # Beam search draws nothing; a temperature that is given all the same is refused.
        likeliest = {"temperature": 0} if options.get("beams", 1) != 1 else {}
        return build(SamplingConfig, likeliest | dict(options))

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text: those of generation_config.json (or config.json, where there is none), and
        the tokenizer's own where neither says."""
        named = self.defaults.get("eos_token_id", self.tokenizer.eos_id)
        listed = named if isinstance(named, list) else [named]
        if not all(
            token is None or (type(token) is int and 0 <= token < self.network.config.vocab_size)
            for token in listed
        ):
            raise InputError(
                f"generation_config.json: eos_token_id must be a token's number or a list of them, not "
                f"{str(named)[:60]}"
            )
        return frozenset(token for token in listed if token is not None)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template, which `use_template` replaces. Raises InputError when the model has none."""
        return ChatTemplate.of(self.tokenizer)

    def use_template(self, source: str | Mapping[str, str]) -> None:
        """Talk with this Jinja template from now on (or several by name: "default", "tool_use")."""
        self.__dict__["chat_template"] = ChatTemplate(self.tokenizer, source)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The answer to a conversation: [{"role": "user", "content": "Hello"}, …] → text, without what the
        model thought before it.

        Options are those of `SamplingConfig`, of which max_tokens is 1024 unless given; `tools` and
        `documents` for templates that take them; `continue_final_message=True` to go on with the last
        message; `template_variables`, such as {"enable_thinking": False}; `draft` as for `generate`. Raises
        InputError for messages or options that are wrong, and for a model without a chat template.
        """
        return self.reply(messages, **options).content

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[str]:
        """`chat`, piece by piece."""
        for piece in self.reply_pieces(messages, **options):
            if piece.kind == "content" and piece.text:
                yield piece.text

    def reply(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        """`chat` with everything there is to know: content, reasoning, how it ended, and how many tokens were
        written."""
        return gather(self.reply_pieces(messages, **options))

    def reply_pieces(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[ReplyPiece]:
        """What `reply` is made of: pieces that are content or reasoning."""
        template = {name: options.pop(name) for name in TEMPLATE_OPTIONS if name in options}
        draft = options.pop("draft", None)
        config, how, responder = self.chat_options(options), _rendering(template), self._speaker()
        check_drafting(draft is not None, config)
        prompt = responder.prompt(messages, how)
        pieces = responder.answer(
            prompt, config, self._answerer(draft), how.tools, how.continue_final_message
        )
        return told_full(pieces, responder.context_length)

    def conversation(
        self, system: str | None = None, *, draft: Model | None = None, **options: Any
    ) -> Conversation:
        """A conversation that keeps what the network has read from turn to turn. Options are the template's:
        tools, documents, template_variables; `draft` is as for `generate`."""
        return Conversation(self._speaker(), self._answerer(draft), system, _rendering(options))

    def _speaker(self) -> ChatResponder:
        return ChatResponder(self.network.config.context_length, self.chat_template, self.end_ids)

    def _answerer(self, draft: Model | None = None) -> Answerer:
        return self._engine(draft)

    def chat_options(self, options: Mapping[str, Any]) -> SamplingConfig:
        """The `SamplingConfig` of these options, with what an answer has unless they say otherwise. Raises
        InputError."""
        config = self._config({"max_tokens": MAX_TOKENS} | dict(options))
        check_options(config)
        return config

    def save(self, path: str | Path, type: str | None = None) -> str | None:
        """Write a Hugging Face model folder, or one GGUF file when the name ends in .gguf, whole or not at
        all. An adapter is merged.

        `type` is the number format of a GGUF's matrices: F32 (unless given), F16, BF16, Q8_0, Q4_0 or
        (experts) MXFP4. Returns None, or a sentence when stock transformers has no class for this network, or
        llama.cpp runs it a little differently. Raises InputError when `path` holds other things, or GGUF has
        no layout for the network.
        """
        folder = Path(path)
        if folder.suffix == ".gguf" and self.labels is not None:
            raise InputError(f"{folder}: a classifier is saved as a folder; GGUF has no layout for its head")
        if folder.suffix == ".gguf":
            from newleaf.storage.save_gguf import save_gguf

            if folder.is_dir():
                raise InputError(f"{folder}: is a folder, so no GGUF file is written over it")
            return save_gguf(
                folder,
                self.network.config,
                whole_weights(self.network),
                self.tokenizer,
                type or "F32",
                self.pretrained,
            )
        if type is not None:
            raise InputError(f"type: {type} is for GGUF files, and {folder} does not end in .gguf")
        if folder.exists() and (
            not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").exists())
        ):
            raise InputError(f"{folder}: exists and is not a model folder, so it is not replaced")
        if self.labels is not None:
            score = {SCORE: self.labels.network.score.weight.detach()}
            whole = {BODY + name: weight for name, weight in whole_weights(self.network).items()} | score
            head = self.labels.head
            return save_classifier(
                folder, self.network.config, whole, self.tokenizer, head, VERSION, pretrained=self.pretrained
            )
        notes = {"version": VERSION, **self.pretrained}
        return save_folder(
            folder,
            self.network.config,
            whole_weights(self.network),
            self.tokenizer,
            notes,
            defaults=self.defaults,
        )

    def __repr__(self) -> str:
        config = self.network.config
        return f"<newleaf.Model {self.family}, {self.network.parameter_count():,} parameters, context {config.context_length}>"


def _text_alone(options: Mapping[str, Any], name: str) -> None:
    for option in ("logprobs", "prompt_logprobs"):
        if options.get(option) is not None:
            raise InputError(f"{option}: {name} gives text alone; complete has the log-probabilities")


def _rendering(options: Mapping[str, Any]) -> Rendering:
    given = dict(options)
    variables = given.pop("template_variables", None) or {}
    try:
        return Rendering(**given, variables=variables)
    except TypeError as error:
        raise InputError(f"chat: {error}") from None
