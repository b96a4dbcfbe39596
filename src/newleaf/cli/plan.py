"""`newleaf plan`: what a training run would take, on paper."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING

from newleaf.cli import plan_fit
from newleaf.cli.console import stdout_console
from newleaf.cli.shared_options import add_offline, apply_offline
from newleaf.errors import InputError
from newleaf.format_amounts import byte_size, counted

if TYPE_CHECKING:
    from rich.console import Console

    from newleaf.plan import Figure, Machine, Plan

LABELS = {
    "active_parameters": "of these active",
    "embedding_parameters": "of these embedding",
    "kv_cache_full": "KV cache of a full text",
    "days": "time",
    "machine_days": "time to train",
    "flops_per_token_with_attention": "  with attention",
    "training_flops_with_attention": "  with attention",
    "activations": "nothing recomputed",
    "activations_flash": "with flash attention",
    "activations_checkpointed": "with checkpointing",
}
WIDE = 100  # columns from which a formula has room beside its figure
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("plan", help="what a training run would take, on paper")
    parser.add_argument(
        "size",
        nargs="?",
        help="a published size such as gpt3-175b, or a run, a model folder, a GGUF file or a Hub name",
    )
    parser.add_argument("--gpus", type=int, default=1, help="how many devices (default: 1)")
    parser.add_argument("--gpu", default="h100", help="which, such as a100 or h100 (default: h100)")
    parser.add_argument(
        "--tokens", help="tokens to train on, such as 300b (default: the compute-optimal number)"
    )
    parser.add_argument(
        "--mfu", type=float, help="share of the devices' peak that the run reaches (default: 0.4)"
    )
    plan_fit.add(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_offline(parser)
    parser.set_defaults(run=run, name="plan")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    on_paper = [name for name in ("size", "tokens", "mfu") if getattr(args, name) is not None]
    on_paper += [name for name, usual in (("gpus", 1), ("gpu", "h100")) if getattr(args, name) != usual]
    if args.fit is not None:
        if on_paper:
            raise InputError(f"{on_paper[0]}: is for a plan on paper, and --fit reads runs")
        return plan_fit.run(args)
    if given := [name for name in ("budget", "flops", "out") if getattr(args, name) is not None]:
        raise InputError(f"--{given[0]}: is for --fit RUN…")
    from newleaf.plan import MFU, plan, this_machine

    tokens = None if args.tokens is None else _tokens(args.tokens)
    if args.size is None:
        if on_paper:
            raise InputError(f"--{on_paper[0]}: what is to be planned? newleaf plan lists the sizes")
        return _list(args.json)
    # who names accelerators asks about them
    machine = this_machine() if args.gpus == 1 and args.gpu == "h100" else None
    found = plan(
        args.size,
        machine=machine,
        gpus=args.gpus,
        gpu=args.gpu.lower(),
        tokens=tokens,
        mfu=MFU if args.mfu is None else args.mfu,
    )
    if args.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
        return 0
    _show(found, stdout_console(), machine)
    return 0


def _tokens(text: str) -> float:
    match = re.fullmatch(r"([\d_,]*\.?\d*(?:e[+]?\d+)?)\s*([kmbt]?)", text.strip().lower())
    try:
        return (
            float(match[1].replace(",", "").replace("_", "")) * SUFFIXES[match[2]] if match else float("nan")
        )
    except ValueError:
        return float("nan")


def _list(as_json: bool) -> int:
    from newleaf.model.count import count_parameters
    from newleaf.plan import sizes

    rows = [(subject, count_parameters(subject.config).total) for subject in sizes()]
    if as_json:
        values = [
            {
                "size": s.name,
                "family": s.family,
                "published_as": s.published_as,
                "parameters": count,
                "shape": s.shape,
                "note": s.note,
            }
            for s, count in rows
        ]
        print(json.dumps(values, ensure_ascii=False, indent=2))
        return 0
    from rich.table import Table

    console = stdout_console()
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    wide = console.width >= WIDE
    for name in ("size", "published as", "parameters") if wide else ("size", "parameters"):
        table.add_column(name, justify="left" if name == "size" else "right", no_wrap=True)
    table.add_column("shape")
    for subject, count in rows:
        named = (subject.name, subject.published_as) if wide else (subject.name,)
        table.add_row(*named, f"{count:,}", subject.shape + (" (on paper only)" if subject.note else ""))
    console.print(table)
    console.print("\nnewleaf plan SIZE --gpus 8 --gpu h100  says what training it takes")
    return 0


def _show(found: Plan, console: Console, machine: Machine | None = None) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from newleaf.plan import DEVICES

    wide = console.width >= WIDE

    published = f", published as {found.published_as}" if found.published_as else ""
    console.print(f"[bold]{found.size}[/bold]{published}: {found.shape}")
    if found.note:
        console.print(found.note, style="yellow")
    memory = DEVICES[found.gpu].memory
    groups: tuple[tuple[str, tuple[str, ...]], ...] = (
        (
            "The model",
            (
                "parameters",
                "active_parameters",
                "embedding_parameters",
                "weights_to_serve",
                "kv_cache_per_token",
                "kv_cache_full",
            ),
        ),
        (
            "Training",
            tuple(
                name
                for name, figure in found.figures.items()
                if figure.unit in ("FLOPs", "tokens", "days") and not name.startswith("machine")
            ),
        ),
        (
            "Activations of one text on a device",
            ("activations", "activations_flash", "activations_checkpointed"),
        ),
        ("Memory of a device, everything on each (DDP)", _named(found, "ddp")),
        (f"Memory of a device, shared by {found.gpus:,} (FSDP)", _named(found, "fsdp")),
    )
    if machine is not None:
        title = f"This machine: {counted(machine.cores, 'core')}, {byte_size(machine.memory)} of memory"
        groups = (*groups, (title, _named(found, "machine")))
    for title, names in groups:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, width=23)
        table.add_column(justify="right", no_wrap=True, min_width=17)
        if wide:
            table.add_column(style="dim", ratio=1)
        console.print(f"\n[bold]{title}[/bold]")
        for name in names:
            plain = name.removeprefix("ddp_").removeprefix("fsdp_").removeprefix("machine_").replace("_", " ")
            label = LABELS.get(name) or plain.replace("flops", "FLOPs").replace("kv ", "KV ").replace(
                "compute optimal", "compute-optimal"
            )
            figure = found.figures[name]
            style = None
            formula = figure.formula
            if name in ("ddp_total", "fsdp_total"):
                fits = figure.value <= memory
                style = "green" if fits else "red"
                formula += (
                    f": {'fits in' if fits else 'more than'} the {byte_size(memory)} of one {found.gpu}"
                )
            if machine is not None and name.startswith("machine_memory"):
                fits = figure.value <= machine.memory
                style = "green" if fits else "red"
                formula += "" if fits else ": more than this machine has"
            if wide:
                table.add_row(label, _said(figure), formula, style=style)
                continue
            console.print(f"{label:<23}  {_said(figure):>17}", style=style)
            console.print(Padding(Text(formula, style="dim"), (0, 0, 0, 4)))
        if wide:
            console.print(table)


def _named(found: Plan, kind: str) -> tuple[str, ...]:
    return tuple(name for name in found.figures if name.startswith(f"{kind}_"))


def _said(figure: Figure) -> str:
    """A figure as people say it."""
    value = figure.value
    if figure.unit == "FLOPs":
        return f"{value:.3g} FLOPs"
    if figure.unit == "bytes":
        return byte_size(value)
    if figure.unit == "tokens":
        for letter, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
            if value >= size:
                return f"{value / size:,.4g} {letter} tokens"
        return f"{value:,.0f} tokens"
    if figure.unit == "days":
        for unit, days in (("days", 1.0), ("hours", 1 / 24), ("minutes", 1 / 1440)):
            if value >= days:
                return f"{value / days:,.1f} {unit}"
        return f"{value * 86400:,.2g} seconds"
    return f"{value:,.0f}"
