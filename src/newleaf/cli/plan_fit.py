"""`newleaf plan --fit RUN…`: the law of a few short runs, and what it says of larger budgets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from newleaf.cli.console import stdout_console
from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.scaling import Forecast, Law

AHEAD = (10.0, 100.0)  # times the largest run's FLOPs, unless budgets are given


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `newleaf plan` that go with --fit."""
    parser.add_argument(
        "--fit",
        nargs="+",
        metavar="RUN",
        help="fit loss against compute over these runs, or the runs in these folders",
    )
    parser.add_argument(
        "--budget",
        nargs="+",
        metavar="TIME",
        help="with --fit: what the loss would be after 1h, 8h at the runs' speed",
    )
    parser.add_argument(
        "--flops",
        nargs="+",
        metavar="N",
        help="with --fit: what it would be after so many FLOPs, such as 1e15",
    )
    parser.add_argument(
        "--out", metavar="PNG", help="with --fit: draw the law into this file (.png, .svg or .pdf)"
    )


def run(args: argparse.Namespace) -> int:
    from newleaf.scaling import fit_law, points_of
    from newleaf.train.runs.run_history import find_runs, named, read_run

    if args.out and Path(args.out).suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--out: {args.out} must end in .png, .svg or .pdf")
    paths = list(dict.fromkeys(path for given in args.fit for path in find_runs(given)))
    points, notes = points_of([read_run(path, name) for name, path in named(paths).items()])
    law = fit_law(points, notes)
    forecasts = [law.forecast(flops, said) for flops, said in _asked(args, law)]
    if args.out:
        from newleaf.scaling_plot import law_figure
        from newleaf.storage.atomic_write import write_atomically

        with write_atomically(Path(args.out)) as aside:
            law_figure(law, forecasts).savefig(aside, format=Path(args.out).suffix[1:], dpi=160)
    if args.json:
        print(
            json.dumps(
                law.to_dict() | {"forecasts": [forecast.__dict__ for forecast in forecasts]},
                ensure_ascii=False,
                indent=2,
            )
        )
    else:
        _show(law, forecasts)
        if args.out:
            print(f"\n{args.out}")
    return 0


def _asked(args: argparse.Namespace, law: Law) -> list[tuple[float, str]]:
    from newleaf.recipe import seconds

    asked = []
    for text in args.flops or ():
        try:
            flops = float(text)
        except ValueError:
            flops = float("nan")
        if not 0 < flops < float("inf"):
            raise InputError(f"--flops: {text!r} is not a number above 0 such as 1e15")
        asked.append((flops, f"{flops:.3g} FLOPs"))
    for text in args.budget or ():
        try:
            duration = seconds(text)
        except ValueError as error:
            raise InputError(f"--budget: {error}") from None
        if not law.flops_per_second:
            raise InputError("--budget: none of these runs says how long it took; give --flops")
        asked.append((duration * law.flops_per_second, text))
    largest = law.points[-1].flops
    return asked or [(times * largest, f"{times:.0f} × {law.points[-1].name}") for times in AHEAD]


def _show(law: Law, forecasts: list[Forecast]) -> None:
    from rich.table import Table

    console = stdout_console()
    console.print(f"[bold]{law.formula()}[/bold]   bits per byte after C FLOPs of training")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("run")
    for title in ("FLOPs", "bits/byte", "law", "band (90 %)"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in law.points:
        table.add_row(
            point.name, f"{point.flops:.2e}", f"{point.loss:.3f}", f"{law.loss(point.flops):.3f}", ""
        )
    table.add_section()
    for forecast in forecasts:
        band = f"{forecast.low:.3f} to {forecast.high:.3f}" if forecast.low is not None else ""
        table.add_row(forecast.said, f"{forecast.flops:.2e}", "", f"{forecast.loss:.3f}", band, style="bold")
    console.print(table)
    if law.error:
        console.print(
            f"Runs lie {100 * law.error:.2g} % from the law; the bands hold the law with 90 % confidence, "
            f"one run's luck aside."
        )
    if law.flops_per_second:
        console.print(
            f"Times are at {law.flops_per_second / 1e9:,.1f} GFLOP/s, everything included, as "
            f"{law.points[-1].name} reached."
        )
    for note in law.notes:
        console.print(f"Note: {note}")
