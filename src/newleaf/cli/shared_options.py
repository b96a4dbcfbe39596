"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.api import Model


def add_model_options(parser: argparse.ArgumentParser, weights: bool = True) -> None:
    """What every command that opens a model takes."""
    kinds = ["fp32", "bf16", "int8", "int4"]
    if weights:
        parser.add_argument(
            "--weights", choices=kinds, help="convert or quantize the weights on opening (default: as stored)"
        )
        parser.add_argument(
            "--adapter",
            metavar="PATH",
            help="an adapter over the model: its folder, a run that made one, or owner/name",
        )
        add_tokenizer_option(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads to use (default: one for each core)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_offline(parser)


def add_tokenizer_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="a tokenizer's folder or file, or owner/name, in place of the model's own",
    )


def add_draft_options(parser: argparse.ArgumentParser) -> None:
    """For commands that write with one model."""
    parser.add_argument(
        "--draft",
        metavar="MODEL",
        help="a small model with the same tokenizer for speculative decoding; changes no text",
    )
    kinds = ["fp32", "bf16", "int8", "int4"]
    parser.add_argument(
        "--draft-weights", choices=kinds, help="--weights of the draft (default: those of the model)"
    )


def open_draft(args: argparse.Namespace) -> Model | None:
    """The model of --draft, where one is given."""
    if args.draft is None:
        if args.draft_weights is not None:
            raise InputError("--draft-weights: goes with --draft MODEL")
        return None
    from newleaf.api.opening import load_for_text

    return load_for_text(args.draft, args.draft_weights or args.weights, args.device, args.threads)


def add_context_options(parser: argparse.ArgumentParser) -> None:
    """What commands take that read and write with a language model."""
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="context length in tokens; beyond the model's own, rotary positions are scaled",
    )
    parser.add_argument(
        "--context-method",
        choices=["yarn", "ntk"],
        help="how positions are scaled: YaRN or dynamic NTK (default: yarn)",
    )


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        choices=["bf16", "int8"],
        help="number format of the KV cache (default: bf16, or fp32 if the weights are)",
    )


def opening_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `newleaf.load` takes of these."""
    return {
        name: getattr(args, name)
        for name in (
            "weights",
            "device",
            "threads",
            "adapter",
            "context",
            "context_method",
            "cache",
            "tokenizer",
        )
    }


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What every command that begins a run takes, beside its length."""
    parser.add_argument(
        "--config", metavar="RECIPE", help="a YAML recipe, or the run.yaml of a run to repeat"
    )
    parser.add_argument(
        "--resume",
        metavar="DIR",
        help="continue a stopped run; --steps, --tokens, --epochs (in all) or --time (more) extend any run",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run in --out")
    parser.add_argument("--seed", help="random seed (default: 1)")
    parser.add_argument("--threads", help="threads to use (default: one for each core)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--track",
        action="append",
        metavar="WHERE",
        help="log to tensorboard, wandb (offline) or trackio too; may be repeated",
    )
    parser.add_argument("--quiet", action="store_true", help="show nothing while training")
    add_offline(parser)


BESIDE_RESUME = ("resume", "time", "steps", "tokens", "epochs", "quiet", "offline", "debug")
NO_OPTIONS = ("rest", "started", "run", "name", "takes_recipe")  # what argparse is given for other uses


def lengths_to_resume(args: argparse.Namespace, overrides: dict[str, Any]) -> dict[str, Any]:
    """What --resume is given to extend a run by. Raises InputError, naming it, for whatever else was
    given."""
    reason = (
        "does not go with --resume, which goes on with a run as it was begun; --steps, --time, "
        "--tokens or --epochs extend it"
    )
    for name, value in vars(args).items():
        if name in (*BESIDE_RESUME, *NO_OPTIONS) or value in (None, False, [], ()):
            continue
        if name in ("source", "model", "data"):
            shown = value[0] if isinstance(value, list) else value
            raise InputError(f"{shown}: {reason}")
        raise InputError(f"--{name.replace('_', '-')}: {reason}")
    for name in overrides:
        raise InputError(f"--{name}: {reason}")
    return {name: getattr(args, name) for name in ("time", "steps", "tokens", "epochs")}


def add_offline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline",
        action="store_true",
        help="never contact the Hub, not even for a name that is not on this disk",
    )


def apply_offline(args: argparse.Namespace) -> None:
    """To be called before anything imports huggingface_hub, which reads this once."""
    if args.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def start_of_process(started: float) -> float:
    """The moment (time.monotonic) this process was created; `started` is when its `main` began."""
    from newleaf.machine import process_age

    return min(started, time.monotonic() - process_age())
