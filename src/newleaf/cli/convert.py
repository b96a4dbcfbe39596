"""`newleaf convert`: a model in one form to a model in another."""

from __future__ import annotations

import argparse
import sys

from newleaf.cli.shared_options import add_offline, apply_offline
from newleaf.errors import InputError

DTYPES, TYPES = ("fp32", "bf16", "fp16"), ("F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("convert", help="write a model as a Hugging Face folder or a GGUF file")
    parser.add_argument(
        "source", help="a run, a model folder, a GGUF file, or owner/name[@revision] of the Hub"
    )
    parser.add_argument("target", help="what to write: a GGUF file when it ends in .gguf, else a folder")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="number format of a folder's weights (default: as they are)"
    )
    parser.add_argument(
        "--type",
        type=str.upper,
        choices=TYPES,
        help="number format of a GGUF's matrices (default: as they are)",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="the source is an adapter: write its base with the adapter in the weights",
    )
    parser.add_argument(
        "--adapter", metavar="PATH", help="with --merge: the adapter, where the source is its base"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model that stands there")
    add_offline(parser)
    parser.set_defaults(run=run, name="convert")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    if args.adapter is not None and not args.merge:
        raise InputError("--adapter: goes with --merge")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from newleaf.storage.convert_model import convert

    columns = (
        TextColumn("writing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tensors"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None, visible=False)

        def progress(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total, visible=True)

        options = {
            "dtype": args.dtype,
            "type": args.type,
            "overwrite": args.overwrite,
            "merge": args.merge,
            "adapter": args.adapter,
        }
        note = convert(args.source, args.target, progress=progress, **options)
    print(f"{args.target} is written; newleaf info {args.target} says what it is")
    if note:
        print(f"Note: {note}", file=sys.stderr)
    return 0
