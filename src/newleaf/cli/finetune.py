"""`newleaf finetune`: a model and examples to a model that does a task."""

from __future__ import annotations

import argparse
from typing import Any

from newleaf.cli.recipe_options import dotted
from newleaf.cli.shared_options import add_run_options, apply_offline, lengths_to_resume, start_of_process
from newleaf.errors import InputError
from newleaf.train.signals import Interrupt
from newleaf.tune.task_names import TASKS

SHORT = ("time", "steps", "tokens", "epochs", "seed", "threads", "device", "track")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tasks = "\n".join(f"  {name:<12} {about}" for name, about in TASKS.items())
    parser = commands.add_parser(
        "finetune",
        help="tune a model on data",
        epilog=f"tasks:\n{tasks}\n\nevery field of a recipe is an option too, such as "
        f"--optimizer.learning_rate 2e-5; docs/finetune.md "
        "lists them all, recipes/ has whole ones.",
    )
    parser.add_argument(
        "model", nargs="?", help="a run, a model folder, a .gguf file, or owner/name of the Hub"
    )
    parser.add_argument("data", nargs="*", help="what to learn from: files, folders, globs, hf:owner/dataset")
    parser.add_argument("--task", metavar="TASK", help="what to learn: " + ", ".join(TASKS))
    parser.add_argument("--out", help="the run's folder")
    parser.add_argument(
        "--lora",
        action="store_true",
        help="train an adapter; --lora.rank, .alpha, .dropout, .targets, .rslora say which",
    )
    parser.add_argument(
        "--dora", action="store_true", help="with --lora: learn each row's length apart from its direction"
    )
    parser.add_argument(
        "--weights",
        choices=["fp32", "bf16", "int8", "int4"],
        help="with --lora: what the frozen base is kept in",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--time", help="wall clock of the whole command: 90s, 3m, 1h30m")
    length.add_argument("--steps", help="optimizer steps")
    length.add_argument("--tokens", help="tokens to learn from, such as 2m")
    length.add_argument("--epochs", help="times to go through the data (default: 3)")
    add_run_options(parser)
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="find the learning rate first, in short runs (successive halving)",
    )
    parser.set_defaults(run=run, name="finetune", takes_recipe=True)


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    overrides = dotted(args.rest)
    if args.resume is not None:
        lengths_to_resume(args, overrides)
    asked = {
        name: value
        for name, value in (("dora", args.dora or None), ("weights", args.weights))
        if value is not None
    }
    if asked and not args.lora:
        raise InputError(f"--{next(iter(asked))}: goes with --lora")
    overrides |= {f"lora.{name}": value for name, value in asked.items()}
    if args.resume is None and args.out is None:
        raise InputError("--out is missing: name a folder for the run, such as --out runs/tuned")

    from newleaf.train.distributed.process_group import is_rank_zero

    # loading torch takes seconds, and a signal may come then
    with Interrupt("stopped before anything was begun"):
        lines = closing_lines(_tuned(args, overrides))
        if is_rank_zero():
            print(lines)
    return 0


def _tuned(args: argparse.Namespace, overrides: dict[str, Any]) -> object:
    from newleaf import api
    from newleaf.recipe import nest

    started = start_of_process(args.started)
    if args.resume is not None:
        return api.resume(
            args.resume, quiet=args.quiet, started=started, **lengths_to_resume(args, overrides)
        )
    short = {name: getattr(args, name) for name in SHORT if getattr(args, name) is not None}
    options = nest(overrides)
    if args.lora:
        options.setdefault("lora", {})
    return api.finetune(
        args.model,
        *args.data,
        task=args.task,
        out=args.out,
        config=args.config,
        overwrite=args.overwrite,
        sweep=args.sweep,
        quiet=args.quiet,
        started=started,
        **options,
        **short,
    )


def closing_lines(run: object) -> str:
    """What a run came to, before and after, and what to do next."""
    from newleaf.api import Run
    from newleaf.tune.terminal_summary import summary_text

    assert isinstance(run, Run)
    return summary_text(run.path, run.config, run.summary, run.metrics)
