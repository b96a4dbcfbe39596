"""`newleaf pretrain`: text to model."""

from __future__ import annotations

import argparse
from typing import Any

from newleaf.cli.recipe_options import dotted
from newleaf.cli.shared_options import add_run_options, apply_offline, lengths_to_resume, start_of_process
from newleaf.errors import InputError
from newleaf.train.signals import Interrupt

EPILOG = """every field of a recipe is an option too, for example
  --data.val_fraction 0.1      hold out the last tenth of the text
  --data.document line         one document a line
  --tokenizer.vocab_size 4096  tokens to cut the text into
  --model.n_layer 6            layers, as --model.n_embd 384 is the width
  --optimizer.kind adamw       another optimizer than Muon
docs/pretraining.md lists them all; recipes/ has whole ones."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("pretrain", help="train a new model from text", epilog=EPILOG)
    parser.add_argument(
        "source",
        nargs="*",
        help="file, folder or glob (.txt .md .py .jsonl .csv .tsv .parquet, gz and zst too), or "
        "hf:owner/dataset",
    )
    parser.add_argument("--out", help="the run's folder")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--time", help="wall clock of the whole command: 90s, 3m, 1h30m (default: 3m)")
    length.add_argument("--steps", help="optimizer steps")
    length.add_argument("--tokens", help="tokens to read, such as 2m")
    length.add_argument("--epochs", help="times to read the whole text")
    parser.add_argument(
        "--size",
        help="layers × width, such as 6x384, or weights, such as 2m (default: what suits text and time)",
    )
    add_run_options(parser)
    parser.set_defaults(run=run, name="pretrain", takes_recipe=True)


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    overrides = dotted(args.rest)
    if args.resume is not None:
        lengths_to_resume(args, overrides)
    if args.resume is None and args.out is None:
        raise InputError("--out is missing: name a folder for the run, such as --out runs/book")

    from newleaf.train.distributed.process_group import is_rank_zero

    # loading torch takes seconds, and a signal may come then
    with Interrupt("stopped before anything was begun"):
        lines = closing_lines(_trained(args, overrides))
        if is_rank_zero():
            print(lines)
    return 0


def _trained(args: argparse.Namespace, overrides: dict[str, Any]) -> object:
    from newleaf import api
    from newleaf.recipe import nest

    started = start_of_process(args.started)
    if args.resume is not None:
        return api.resume(
            args.resume, quiet=args.quiet, started=started, **lengths_to_resume(args, overrides)
        )
    names = ("time", "steps", "tokens", "epochs", "size", "seed", "threads", "device", "track")
    short = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return api.pretrain(
        *args.source,
        out=args.out,
        config=args.config,
        overwrite=args.overwrite,
        quiet=args.quiet,
        started=started,
        **nest(overrides),
        **short,
    )


def closing_lines(run: object) -> str:
    """What a run came to, and what to do next."""
    from newleaf.api import Run
    from newleaf.train.runs.run_diagnosis import diagnosis_lines

    assert isinstance(run, Run)
    found, path = run.summary, run.path
    if not found:
        return f"{path}: nothing was trained yet\n  begin anew      newleaf pretrain --resume {path}"
    return "\n".join(diagnosis_lines(path, run.config, found, run.metrics))
