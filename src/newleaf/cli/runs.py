"""`newleaf runs`: what happened, run by run, in a table or in one picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from newleaf.cli.console import stdout_console
from newleaf.errors import InputError
from newleaf.text.terminal_text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from newleaf.train.runs.run_history import RunRecord

SORTS = ("bits", "name", "parameters", "steps", "tokens", "seconds", "begun", "state")
STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "damaged": "red"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("runs", help="list and compare runs")
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="DIR",
        help="where the runs are, up to four folders below (default: runs)",
    )
    parser.add_argument(
        "--sort",
        choices=SORTS,
        default="bits",
        metavar="BY",
        help=f"{', '.join(SORTS)} (default: bits, the best first, text by text)",
    )
    parser.add_argument("--trials", action="store_true", help="list the short runs of sweeps too")
    parser.add_argument(
        "--plot",
        nargs="*",
        metavar="RUN",
        help="draw the curves of these runs (default: all in DIR) into one picture",
    )
    parser.add_argument(
        "--out", metavar="PNG", help="the picture's file, .png, .svg or .pdf (default: runs.png)"
    )
    parser.add_argument(
        "--x",
        choices=["steps", "tokens", "seconds", "flops"],
        help="one panel against this (default: a panel for each)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, name="runs")


def run(args: argparse.Namespace) -> int:
    if args.plot is None and (args.out or args.x):
        raise InputError(f"--{'out' if args.out else 'x'}: is for --plot")
    from newleaf.train.runs.run_history import find_runs, named, read_run

    top = args.folder or "runs"
    paths = (
        named([Path(path) for path in args.plot]) if args.plot else named(find_runs(top, args.trials), top)
    )
    if args.plot is not None:
        return _plot(paths, Path(args.out or "runs.png"), args.x, args.json)
    records = sorted(
        (read_run(path, name) for name, path in paths.items()), key=lambda record: _key(record, args.sort)
    )
    if args.sort == "bits":
        records = _by_text(records)
    if args.json:
        print(json.dumps([record.to_dict() for record in records], ensure_ascii=False, indent=2))
        return 0
    console = stdout_console()
    console.print(_table(records, console.width, args.sort == "bits"))
    _print_notes(records)
    hidden = 0 if args.trials else len(find_runs(top)) - len(records)
    if hidden:
        print(
            f"{hidden:,} trial{'s' if hidden > 1 else ''} of sweeps not shown; --trials lists them",
            file=sys.stderr,
        )
    return 0


def _by_text(records: list[RunRecord]) -> list[RunRecord]:
    """Runs of one text together, as bits per byte of different texts say nothing about one another; the texts
    in the order of their names, and what names none last."""
    texts = list(dict.fromkeys(map(_text, records)))
    texts.sort(key=lambda text: (not text[0], *text[:2]))
    return [record for text in texts for record in records if _text(record) == text]


def _text(record: RunRecord) -> tuple[str, ...]:
    """What tells one text from another: its sources. Its fingerprint says how much of it was held out,
    too."""
    return record.text, record.task, *(record.sources or (record.fingerprint,))


def _plot(paths: dict[str, Path], out: Path, x: str | None, as_json: bool) -> int:
    from newleaf.storage.atomic_write import write_atomically
    from newleaf.train.runs.compare_runs import comparison_figure
    from newleaf.train.runs.run_history import read_curve

    kind = out.suffix[1:].lower()
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"--out: {out} must end in .png, .svg or .pdf")
    curves = [read_curve(path, name) for name, path in paths.items()]
    figure = comparison_figure(curves, x)
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(out) as aside:
        figure.savefig(aside, format=kind, dpi=160)
    _print_notes([curve.record for curve in curves])
    print(
        json.dumps(
            {"out": str(out), "runs": [curve.record.to_dict() for curve in curves]}, ensure_ascii=False
        )
        if as_json
        else out
    )
    return 0


def _key(record: RunRecord, by: str) -> tuple[bool, object, str]:
    """Best, smallest or earliest first; what is not known comes last."""
    value = {
        "bits": record.val_bits_per_byte,
        "seconds": record.seconds,
        "parameters": record.parameters,
    }.get(by, getattr(record, by, None))
    return (value is None or value == "", 0 if value is None else value, record.name)


def _table(records: list[RunRecord], width: int, grouped: bool = False) -> Table:
    """Fewer columns where there is less room: the name, the state and the figure that counts stay."""
    from rich.table import Table
    from rich.text import Text

    from newleaf.train.display.throughput import format_duration
    from newleaf.train.runs.compare_runs import format_short

    columns: dict[str, tuple[int, Callable[[RunRecord], Text | str]]] = {
        "name": (0, lambda r: Text(printable(r.name))),
        "text": (116, lambda r: printable(r.text if len(r.text) <= 40 else r.text[:39] + "…")),
        "size": (100, lambda r: r.shape),
        "parameters": (72, lambda r: format_short(r.parameters) if r.parameters is not None else ""),
        "steps": (86, lambda r: f"{r.steps:,}"),
        "tokens": (60, lambda r: format_short(r.tokens)),
        "time": (50, lambda r: format_duration(r.seconds) if r.seconds is not None else ""),
        "MFU": (108, lambda r: f"{100 * r.mfu:.0f} %" if r.mfu is not None else ""),
        "bits/byte": (0, lambda r: f"{r.val_bits_per_byte:.3f}" if r.val_bits_per_byte is not None else ""),
        "score": (64, lambda r: f"{r.score[0]} {r.score[1]:.3f}" if r.score is not None else ""),
        "state": (0, lambda r: Text(r.state + ("*" if r.notes else ""), style=STYLES[r.state])),
    }
    if not any(record.score for record in records):
        del columns["score"]
    shown = {title: cell for title, (least, cell) in columns.items() if width >= least}
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0) if width >= 50 else (0, 1, 0, 0))
    for title in shown:
        words = title in ("name", "text", "size", "state")
        table.add_column(
            title, justify="left" if words else "right", no_wrap=title != "name", overflow="fold"
        )
    for record, following in zip(records, [*records[1:], None], strict=True):
        table.add_row(*(cell(record) for cell in shown.values()))
        if grouped and following is not None and _text(following) != _text(record):
            table.add_row()
    return table


def _print_notes(records: list[RunRecord]) -> None:
    for record in records:
        if record.notes:
            print(f"* {printable(record.name)}: {printable('; '.join(record.notes))}", file=sys.stderr)
