"""`newleaf info`: what a model or a run is."""

from __future__ import annotations

import argparse
import json

from newleaf.cli.options import add_offline, heed_offline


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("info", help="what a model or a run is")
    parser.add_argument("model", help="a run, a model folder, or owner/name of the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_offline(parser)
    parser.set_defaults(run=run, name="info")


def run(args: argparse.Namespace) -> int:
    heed_offline(args)
    from newleaf.storage.describe import facts

    found = facts(args.model)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    width = max(len(name) for name in found)
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<{width}}  {f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else value}")
    return 0
