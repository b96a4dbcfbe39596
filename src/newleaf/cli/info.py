"""`newleaf info`: what a model or a run is."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from newleaf.cli.console import has_width, stdout_console
from newleaf.cli.shared_options import add_offline, apply_offline
from newleaf.format_amounts import byte_size
from newleaf.text.terminal_text import printable

OPENING = {
    "memory_to_open": "of the process at its most, 232 MB for Python and PyTorch included",
    "memory_of_first_request": "likewise, with the compiled kernels",
}
NEVER = 10**9  # columns: what a program reads is not wrapped


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("info", help="what a model or a run is")
    parser.add_argument(
        "model", help="a run, a model folder, an adapter, a GGUF file, or owner/name[@revision] of the Hub"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_offline(parser)
    parser.set_defaults(run=run, name="info")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    from newleaf.train.runs.describe_run import facts

    found = facts(args.model)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    width, room = max(len(name) for name in found), stdout_console().width if has_width() else NEVER
    for name, value in found.items():
        line = f"{name.replace('_', ' '):<{width}}  {printable(_said(name, value))}"
        print(
            textwrap.fill(
                line,
                room,
                subsequent_indent=" " * (width + 2),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return 0


def _said(name: str, value: Any) -> str:
    """A fact as people read it."""
    if value is None and name in OPENING:
        return "not known before the weights are fetched"
    if value is None:
        return "not said" if name in ("licence", "base") else "none in this folder"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "tokenizer":
        return f"{value['kind']}, {value['vocab_size']:,} tokens"
    if name == "memory_to_run":
        sizes = ", ".join(f"{precision} {byte_size(size)}" for precision, size in value.items())
        return f"{sizes} (weights, and a full cache for one text)"
    if name in OPENING:
        sizes = ", ".join(f"{precision} {byte_size(size)}" for precision, size in value.items())
        return f"{sizes} ({OPENING[name]})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
