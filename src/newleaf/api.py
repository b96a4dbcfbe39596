"""What `import newleaf` hands out: models that write, and runs that made them."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.runner import Runner, pick_runner
from newleaf.generate.sampling import SamplingConfig
from newleaf.generate.writer import Piece, write
from newleaf.model import GPT
from newleaf.quant.layers import PlainWeights
from newleaf.storage.assemble import PRECISIONS
from newleaf.storage.folder import load_folder, save_folder
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES, local_folder
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

LENGTHS = ("time", "steps", "tokens", "epochs")


class Model:
    """A language model that is open: `network` (ids [B, T] → logits [B, T, V]), its `tokenizer`, its `family`'s name."""

    def __init__(self, network: GPT, tokenizer: Tokenizer, family: str) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.family = family
        self._runner: tuple[tuple[tuple[int, int], ...], int, Runner] | None = None

    def generate(self, prompt: str = "", **options: Any) -> str:
        """The continuation of `prompt`, without it. Options are those of `SamplingConfig`: max_tokens, temperature, top_k, seed, stop, …

        Raises InputError for an option that does not exist or cannot be.
        """
        return "".join(self.stream(prompt, **options))

    def stream(self, prompt: str = "", **options: Any) -> Iterator[str]:
        """The continuation piece by piece, each piece complete UTF-8."""
        for piece in self.pieces(prompt, **options):
            yield piece.text

    def samples(self, prompt: str = "", n: int = 2, **options: Any) -> list[str]:
        """`n` continuations, written side by side."""
        if n < 1:
            raise InputError(f"n: must be at least 1, not {n}")
        texts = [""] * n
        for piece in self.pieces(prompt, n, **options):
            texts[piece.sample] += piece.text
        return texts

    def pieces(self, prompt: str = "", n: int = 1, **options: Any) -> Iterator[Piece]:
        """What `stream` is made of: pieces that say which sample they belong to and how it ended."""
        config = build(SamplingConfig, options)
        return write(self._runner_for(n), self.tokenizer, prompt, config, n)

    def _runner_for(self, n: int) -> Runner:
        """What writes, kept from call to call while the weights stay as they are."""
        weights = tuple((weight.data_ptr(), weight._version) for weight in self.network.parameters())
        if self._runner is None or self._runner[:2] != (weights, n):
            self._runner = weights, n, pick_runner(self.network, n)
        return self._runner[2]

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
        return save_folder(folder, self.network.config, PlainWeights(self.network), self.tokenizer, {"version": VERSION})

    def __repr__(self) -> str:
        config = self.network.config
        return f"<newleaf.Model {self.family}, {self.network.parameter_count():,} parameters, context {config.context_length}>"


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
    return Model(network, opened.tokenizer, opened.family)


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
