"""What `import newleaf` hands out: models that write, and runs that made them."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from newleaf.errors import InputError
from newleaf.generate.chat import MAX_TOKENS, Answerer, Reply, ReplyPiece, Speaker, check_options, gather
from newleaf.generate.completion import Completion, collect
from newleaf.generate.constraints import Grammars
from newleaf.generate.conversation import Conversation
from newleaf.generate.engine import SLOTS, Engine
from newleaf.generate.logprobs import score_prompt
from newleaf.generate.memory import Remembering
from newleaf.generate.options import SamplingConfig, check_stops
from newleaf.generate.prompt_file import add_lines, batches, lines_done, read_prompts
from newleaf.generate.samples import Piece, prompt_ids
from newleaf.generate.slots import KernelSlots, open_slots
from newleaf.generate.writer import write
from newleaf.model import GPT
from newleaf.quant.layers import PlainWeights
from newleaf.storage.assemble import PRECISIONS
from newleaf.storage.folder import load_folder, save_folder
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES, local_folder
from newleaf.text.chat_template import ChatTemplate, Rendering
from newleaf.text.tokenizer import Tokenizer
from newleaf.train.config import PretrainConfig
from newleaf.train.machine import pick_device, use_threads
from newleaf.train.monitor import Monitor, Silent, pick_monitor
from newleaf.train.pretrain import pretrain as run_pretraining
from newleaf.train.pretrain import resume as resume_run
from newleaf.train.ranks import leads
from newleaf.train.recipe import build, merge, read_recipe
from newleaf.train.run_folder import CONFIG, MODEL, RunFolder
from newleaf.version import VERSION

TEMPLATE_OPTIONS = ("tools", "documents", "continue_final_message", "template_variables")
LENGTHS = ("time", "steps", "tokens", "epochs")


class Model:
    """A language model that is open: `network` (ids [B, T] → logits [B, T, V]), its `tokenizer`, its `family`'s name.

    `defaults` are the fields of its generation_config.json.
    """

    def __init__(self, network: GPT, tokenizer: Tokenizer, family: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.family = family
        self.defaults = dict(defaults or {})
        self._engine: tuple[tuple[tuple[int, int], ...], Engine | None] | None = None

    @overload
    def generate(self, prompt: str = "", *, n: None = None, **options: Any) -> str: ...

    @overload
    def generate(self, prompt: str = "", *, n: int, **options: Any) -> list[str]: ...

    def generate(self, prompt: str = "", *, n: int | None = None, **options: Any) -> str | list[str]:
        """The continuation of `prompt`, without it; with `n`, a list of n. Options are those of `SamplingConfig`.

        Raises InputError for an option that does not exist or cannot be.
        """
        _text_alone(options, "generate")
        texts = [found.text for found in self.complete(prompt, n=1 if n is None else n, **options)]
        return texts[0] if n is None else texts

    def stream(self, prompt: str = "", **options: Any) -> Iterator[str]:
        """The continuation piece by piece, each piece complete UTF-8. With best_of or beams all of it comes at once, when it is known."""
        _text_alone(options, "stream")
        if options.get("n", 1) != 1:
            raise InputError("n: stream writes one text; generate, complete and pieces write several")
        return (piece.text for piece in self.pieces(prompt, **options))

    def samples(self, prompt: str = "", n: int = 2, **options: Any) -> list[str]:
        """`n` continuations, written side by side."""
        return self.generate(prompt, n=n, **options)

    def complete(self, prompt: str = "", **options: Any) -> list[Completion]:
        """The `n` continuations with how each ended and, with logprobs or prompt_logprobs, how likely each token was."""
        top = options.get("prompt_logprobs")
        (found,) = collect(self._write(prompt, self._config(options)), 1)
        if top is not None:
            config = self._config(options)
            ids = prompt_ids(self.tokenizer, prompt, config, self.network.config.context_length)
            for text in found:
                text.prompt_tokens = score_prompt(self.network, ids, self.tokenizer.vocab_size, int(top))
        return found

    def pieces(self, prompt: str = "", **options: Any) -> Iterator[Piece]:
        """What `stream` is made of: pieces that say which of the `n` texts they belong to and how it ended."""
        if options.get("prompt_logprobs") is not None:
            raise InputError("prompt_logprobs: pieces do not carry them; complete has them")
        return self._write(prompt, self._config(options))

    def generate_file(
        self,
        prompts: str | Path,
        out: str | Path,
        batch: int = 16,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> int:
        """Continue every prompt of a file (.txt: one a line; .jsonl: field `prompt`, other fields kept), `batch` at a time, to JSON lines.

        A second start goes on after the last complete line. `on_progress` hears how many of all prompts are done. Returns how many were
        written now. Raises InputError, before anything is written, for a prompt that cannot be, and for an `out` of other prompts.
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
        done = lines_done(out, rows)
        for first, some in batches(rows, done, batch):
            if on_progress is not None:
                on_progress(first, len(rows))
            pieces = self._write([row.text for row in some], config, first)
            add_lines(out, some, collect(pieces, len(some)))
        return len(rows) - done

    def engine(self, slots: int = 16, limit: int | None = None, deterministic: bool = False) -> Engine:
        """An engine for many requests at once; see `Engine`."""
        return Engine(self.network, self.tokenizer, slots, limit, deterministic, self._grammars)

    def _write(self, prompts: str | Sequence[str], config: SamplingConfig, first: int = 0) -> Iterator[Piece]:
        engine = self._lowered() if config.beams == 1 and config.guidance_scale == 1 else None
        if engine is not None:
            return engine.write(prompts, config, first, self.end_ids)
        return write(self.network, self.tokenizer, prompts, config, self._grammars, first=first, ends=self.end_ids)

    def _lowered(self) -> Engine | None:
        """An engine with the network's program, kept while the weights stay as they are; None where there is no program."""
        weights = tuple((weight.data_ptr(), weight._version) for weight in self.network.parameters())
        if self._engine is None or self._engine[0] != weights:
            found = open_slots(self.network, SLOTS, None, False)
            kept = Engine(self.network, self.tokenizer, grammars=self._grammars, runner=found) if isinstance(found, KernelSlots) else None
            self._engine = weights, kept
        return self._engine[1]

    @staticmethod
    def _config(options: Mapping[str, Any]) -> SamplingConfig:
        check_stops(options.get("stop", ()))
        # Beam search draws nothing; a temperature that is given all the same is refused.
        likeliest = {"temperature": 0} if options.get("beams", 1) != 1 else {}
        return build(SamplingConfig, likeliest | dict(options))

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text: those of generation_config.json, and the tokenizer's own."""
        named = self.defaults.get("eos_token_id")
        listed = named if isinstance(named, list) else [named]
        if not all(token is None or (type(token) is int and 0 <= token < self.network.config.vocab_size) for token in listed):
            raise InputError(f"generation_config.json: eos_token_id must be a token's number or a list of them, not {named!r}")
        return frozenset(token for token in [*listed, self.tokenizer.eos_id] if token is not None)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template, which `use_template` replaces. Raises InputError when the model has none."""
        return ChatTemplate.of(self.tokenizer)

    def use_template(self, source: str | Mapping[str, str]) -> None:
        """Talk with this Jinja template from now on (or several by name: "default", "tool_use")."""
        self.__dict__["chat_template"] = ChatTemplate(self.tokenizer, source)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The answer to a conversation: [{"role": "user", "content": "Hello"}, …] → text, without what the model thought before it.

        Options are those of `SamplingConfig`, of which max_tokens is 1024 unless given; `tools` and `documents` for templates that take
        them; `continue_final_message=True` to go on with the last message; `template_variables`, such as {"enable_thinking": False}.
        Raises InputError for messages or options that are wrong, and for a model without a chat template.
        """
        return self.reply(messages, **options).content

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[str]:
        """`chat`, piece by piece."""
        for piece in self.reply_pieces(messages, **options):
            if piece.kind == "content" and piece.text:
                yield piece.text

    def reply(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        """`chat` with everything there is to know: content, reasoning, how it ended, and how many tokens were written."""
        return gather(self.reply_pieces(messages, **options))

    def reply_pieces(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[ReplyPiece]:
        """What `reply` is made of: pieces that are content or reasoning."""
        template = {name: options.pop(name) for name in TEMPLATE_OPTIONS if name in options}
        config, how, speaker = self.chat_options(options), _rendering(template), self._speaker()
        return speaker.answer(speaker.prompt(messages, how), config, self._answerer(), how.tools)

    def conversation(self, system: str | None = None, **options: Any) -> Conversation:
        """A conversation that keeps what the network has read from turn to turn. Options are the template's: tools, documents,
        template_variables."""
        return Conversation(self._speaker(), self._answerer(), system, _rendering(options))

    def _speaker(self) -> Speaker:
        return Speaker(self.network.config.context_length, self.chat_template, self.end_ids)

    def _answerer(self) -> Answerer:
        """The engine, which lets texts share what was read of their beginnings; or the network itself, where there is no program."""
        return self._lowered() or Remembering(self.network, self.tokenizer, self._grammars)

    def chat_options(self, options: Mapping[str, Any]) -> SamplingConfig:
        """The `SamplingConfig` of these options, with what an answer has unless they say otherwise. Raises InputError."""
        config = self._config({"max_tokens": MAX_TOKENS} | dict(options))
        check_options(config)
        return config

    def save(self, path: str | Path, type: str | None = None) -> str | None:
        """Write a Hugging Face model folder, or one GGUF file when the name ends in .gguf, whole or not at all.

        `type` is the number format of a GGUF's matrices: F32 (unless given), F16, BF16, Q8_0, Q4_0 or (experts) MXFP4. Returns None, or a
        sentence when stock transformers has no class for this network, or llama.cpp runs it a little differently. Raises InputError when
        `path` holds other things, or GGUF has no layout for the network.
        """
        folder = Path(path)
        if folder.suffix == ".gguf":
            from newleaf.storage.gguf_write import save_gguf

            if folder.is_dir():
                raise InputError(f"{folder}: is a folder, so no GGUF file is written over it")
            return save_gguf(folder, self.network.config, PlainWeights(self.network), self.tokenizer, type or "F32")
        if type is not None:
            raise InputError(f"type: {type} is for GGUF files, and {folder} does not end in .gguf")
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").exists())):
            raise InputError(f"{folder}: exists and is not a model folder, so it is not replaced")
        return save_folder(
            folder, self.network.config, PlainWeights(self.network), self.tokenizer, {"version": VERSION}, defaults=self.defaults
        )

    def __repr__(self) -> str:
        config = self.network.config
        return f"<newleaf.Model {self.family}, {self.network.parameter_count():,} parameters, context {config.context_length}>"


def _text_alone(options: Mapping[str, Any], name: str) -> None:
    for option in ("logprobs", "prompt_logprobs"):
        if options.get(option) is not None:
            raise InputError(f"{option}: {name} gives text alone; complete has the log-probabilities")


class Run:
    """A run's folder, opened: `summary`, `metrics`, `model` (the best by validation), `samples`."""

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        self.path = self.folder.path
        self.config = self.folder.read_config()

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty while the run has not ended."""
        return self.folder.read_summary() or {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return list(self.folder.lines())

    @property
    def samples(self) -> list[dict[str, Any]]:
        """What the model wrote on the way: step, prompt, sample."""
        return [line for line in self.folder.lines() if "sample" in line]

    @property
    def model(self) -> Model:
        """The model of this run: the best checkpoint by validation."""
        return load(self.path)

    def plot(self) -> Any:
        """The run's curve as a matplotlib figure."""
        from newleaf.train.plot import loss_figure

        return loss_figure(self.metrics, self.path.name)

    def __repr__(self) -> str:
        found = self.summary
        state = f"{found['val_bits_per_byte']:.3f} bits per byte after {found['steps']:,} steps" if found else "not ended"
        return f"<newleaf.Run {self.path}: {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, the curve and the last samples."""
        import base64
        import html
        import io

        image = io.BytesIO()
        self.plot().savefig(image, format="png", dpi=90)
        encoded = base64.b64encode(image.getvalue()).decode()
        last = [line for line in self.samples if line["step"] == self.samples[-1]["step"]]
        texts = "".join(f"<pre><b>{html.escape(line['prompt'])}</b>{html.escape(line['sample'])}</pre>" for line in last)
        return f"<p>{html.escape(repr(self))}</p><img src='data:image/png;base64,{encoded}' style='max-width:720px'/>{texts}"


def load(path: str | Path, weights: str | None = None, device: str | None = None, threads: int | None = None) -> Model:
    """Open a model folder, a run, a GGUF file (its name ends in .gguf), or a model of the Hub (`owner/name`).

    `weights`: None keeps the stored precision, fp32 for a GGUF file; "fp32" or "bf16" converts; "int8" or "int4" packs each matrix, as it
    comes off the disk, in codes of so many bits with a scale for every 64 or 32 of them.

    Raises InputError when there is no such thing, or it is damaged or of a kind newleaf does not know.
    """
    is_gguf = Path(path).suffix == ".gguf"
    folder = Path(path) if is_gguf else local_folder(path, (*MODEL_FILES, *TOKENIZER_FILES))
    if (folder / CONFIG).exists() and (folder / MODEL).exists():
        folder = folder / MODEL
    elif (folder / CONFIG).exists():
        raise InputError(f"{path}: this run has no model yet; it stopped before its first validation")
    if weights is not None and weights not in PRECISIONS:
        raise InputError(f"weights: {weights!r} is not one of {', '.join(PRECISIONS)}")
    use_threads(threads)
    if is_gguf:
        from newleaf.storage.gguf_read import load_gguf
    opened = (load_gguf if is_gguf else load_folder)(folder, PRECISIONS[weights] if weights else None)
    try:
        network = opened.network.to(pick_device(device or "cpu"))
    except ValueError as error:
        raise InputError(str(error)) from None
    return Model(network, opened.tokenizer, opened.family, opened.defaults)


def pretrain(
    *source: str | Path,
    out: str | Path,
    config: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    started: float | None = None,
    monitor: Monitor | None = None,
    **options: Any,
) -> Run:
    """Train a new model from text. Options are the recipe's sections (`data={...}`, `model={...}`, …), and `time`, `steps`, `tokens`,
    `epochs`, `seed`, `threads`, `device`, `track` as on the command line; `config` is a recipe they are laid over.

    Returns the finished run. Raises InputError for bad input, before anything is written.
    """
    begun = clock.monotonic() if started is None else started
    recipe = read_recipe(Path(config)) if config is not None else {}
    values = _recipe_values(recipe, Path(config).parent if config is not None else Path(), options)
    if source:
        values["source"] = [str(item) for item in source]
        if "validation" not in options.get("data", {}):
            # A recipe's validation text belongs to the recipe's source.
            values = merge(values, {"data": {"validation": None, "validation_limit": None}})
    built = build(PretrainConfig, values)
    return _watched(monitor, quiet, lambda shown: run_pretraining(built, out, shown, begun, overwrite))


def resume(path: str | Path, quiet: bool = False, started: float | None = None, monitor: Monitor | None = None) -> Run:
    """Go on with a run that was stopped, from its last checkpoint; a finished one is returned as it is."""
    begun = clock.monotonic() if started is None else started
    return _watched(monitor, quiet, lambda shown: resume_run(path, shown, begun))


def _rendering(options: Mapping[str, Any]) -> Rendering:
    given = dict(options)
    variables = given.pop("template_variables", None) or {}
    try:
        return Rendering(**given, variables=variables)
    except TypeError as error:
        raise InputError(f"chat: {error}") from None


def _recipe_values(recipe: Mapping[str, Any], beside: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with options laid over it; `time=`, `seed=`, `track=` and the like are short for fields of `train`."""
    given = dict(options)
    short = {name: given.pop(name) for name in (*LENGTHS, "seed", "threads", "device", "track") if name in given}
    values = merge({name: value for name, value in recipe.items() if name != "record"}, given, {"train": short})
    train = values["train"]
    lengths = {name for name in LENGTHS if short.get(name, (options.get("train") or {}).get(name)) is not None}
    if lengths:
        # A length on top of a recipe takes the place of the recipe's own.
        train.update({name: None for name in (*LENGTHS, "replay") if name not in lengths})
    if train.get("replay"):
        # A timed run's recipe: its steps and rates are taken from what it recorded, not from the clock.
        train |= {"replay": str((beside / train["replay"]).resolve()), "time": None}
    return values


def _watched(monitor: Monitor | None, quiet: bool, work: Callable[[Monitor], RunFolder]) -> Run:
    shown = monitor or (Silent() if quiet or not leads() else pick_monitor())
    try:
        return Run(work(shown).path)
    finally:
        shown.close()
