"""`newleaf demo`: the main job, on text that every machine has."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from newleaf.cli.console import stdout_console
from newleaf.cli.recipe_options import dotted
from newleaf.cli.shared_options import start_of_process
from newleaf.text.terminal_text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from newleaf.demo import Report


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo", help="train on Python's own standard library and show what was learned"
    )
    parser.add_argument("--time", default="2m", help="wall clock of the whole command (default: 2m)")
    parser.add_argument(
        "--out",
        default="runs/demo",
        help="the run's folder; an earlier demo there is replaced (default: runs/demo)",
    )
    parser.set_defaults(run=run, name="demo", takes_recipe=True)


def run(args: argparse.Namespace) -> int:
    overrides = dotted(args.rest)

    from newleaf.demo import demo
    from newleaf.recipe import nest
    from newleaf.train.display.monitor import pick_monitor

    monitor = pick_monitor()
    try:
        report = demo(args.time, args.out, start_of_process(args.started), monitor, **nest(overrides))
    finally:
        monitor.close()
    console = stdout_console()
    for part in _shown(report, console.width):
        console.print(part, highlight=False)
    return 0


def _shown(report: Report, width: int) -> list[RenderableType]:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for header, after in report.after.items():
        columns = Table.grid(expand=True, padding=(0, 2))
        before = Text.assemble((header, "bold"), (_short(report.before[header]), "dim"))
        trained = Text.assemble((header, "bold"), _short(after))
        if width >= 100:
            columns.add_row(Text("before training", style="dim"), Text("after", style="green"))
            columns.add_row(before, trained)
        else:
            for row in (Text("before training", style="dim"), before, Text("after", style="green"), trained):
                columns.add_row(row)
        parts.append(Panel(columns, border_style="dim"))
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    for name, bits in (
        ("this model, held-out files", report.bits_per_byte),
        ("xz -9e, the same files alone", report.xz_alone),
        ("xz -9e, having seen the training files", report.xz_after_training_text),
    ):
        bar = Text(
            "█" * round((0 if width < 80 else 4 if width < 100 else 12) * bits),
            style="green" if bits == report.bits_per_byte else "dim",
        )
        table.add_row(name, f"{bits:.3f} bits per byte", bar)
    syntax = f"{report.parsed} of {report.completions} completions are valid Python (ast.parse)"
    summary, path = report.run.summary, report.run.path
    made = (
        f"{summary['parameters'] / 1e6:.1f} M parameters, {summary['tokens_seen'] / 1e6:.2f} M tokens, "
        f"{summary['total_seconds']:.0f} s"
    )
    following = Text.assemble(
        f"{syntax}\n{made}\n\nTry next:\n",
        (f'  newleaf generate {path} "def parse(self, text):" --max-tokens 150\n', "bold"),
        (f"  newleaf info {path}\n", "bold"),
        ("  newleaf pretrain book.txt --time 3m --out runs/book", "bold"),
        "   (any text of yours)",
    )
    return [*parts, table, Text(), following]


def _short(text: str, lines: int = 9, letters: int = 320) -> str:
    text = printable(text).rstrip()
    kept = "\n".join(text[:letters].split("\n")[:lines])
    return kept if len(kept) == len(text) else f"{kept}…"
