"""Runs the clients' scripts against a server of one small model and writes the table.

    python -m benchmarks.clients models/SmolLM2-135M-Instruct.gguf                 # everything, anew
    python -m benchmarks.clients MODEL --only litellm codex --out /tmp/table.md    # some

Needs the package registries. What cannot be installed is skipped with a word; the suite never runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from benchmarks.clients.environments import CLIENTS, SCRIPT_SECONDS, SCRIPTS, Client, InstallError, prepared
from newleaf.version import VERSION

NAME = "model"
KEY = "none"
WHY = (
    "What did not work, in the clients' words. An answer that is cut (`incomplete`, `max_tokens`) or JSON "
    "of other fields than were asked",
    "for in words is the small model's doing; it comes and goes from run to run.",
)


@dataclass(frozen=True)
class Tried:
    """One thing that a script did."""

    what: str
    ok: bool
    note: str


@dataclass(frozen=True)
class Result:
    """A client's version and what it did; `skipped` says why it did nothing."""

    client: Client
    version: str = ""
    tried: tuple[Tried, ...] = ()
    skipped: str | None = None


@contextmanager
def serving(model: str, home: Path, output: int) -> Iterator[str]:
    """A server's address while the block runs."""
    command = [
        sys.executable,
        "-m",
        "newleaf",
        "serve",
        f"{NAME}={model}",
        "--port",
        "0",
        "--json",
        "--state",
        str(home / "state"),
    ]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--max-output", str(output)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    timer = threading.Timer(300, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            raise SystemExit(f"the server did not start; see {home / 'server.log'}")
        yield json.loads(line)["url"]
    finally:
        timer.cancel()
        process.terminate()
        process.wait()


def run(client: Client, url: str, home: Path, fresh: bool) -> Result:
    """Install and run one client."""
    try:
        command, folder, version = prepared(client, home, fresh)
    except InstallError as reason:
        return Result(client, skipped=f"not installed: {reason}")
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": KEY,
        "NEWLEAF_MODEL": NAME,
        "PYTHONPATH": str(SCRIPTS),
    }
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SCRIPT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Result(client, version, skipped=f"its script was not done after {SCRIPT_SECONDS} seconds")
    (folder / "stderr.txt").write_text(done.stderr, "utf-8")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    found = tuple(Tried(line["what"], line["ok"], line["note"]) for line in lines)
    if done.returncode != 0 or not found:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Result(client, version, found, f"its script ended early: {last[:200]}")
    return Result(client, version, found)


def table(results: list[Result], model: str) -> str:
    """The page: a row for each client, and below it what did not work and why."""
    parts = [
        "# Which clients work",
        "",
        "What stock clients of OpenAI's API do against `newleaf serve`, as they come from their registries, "
        "each in an environment of its",
        "own. `python -m benchmarks.clients MODEL` makes this page anew; what was run stands in "
        "`benchmarks/clients/scripts`.",
        "",
        f"newleaf {VERSION}, model {model}, Python {platform.python_version()}. A model this small answers "
        f"wrongly and wanders off; a",
        "check passes when the client has got, parsed and used what it asked for.",
        "",
        "| client | version | what was run | result |",
        "|---|---|---|---|",
    ]
    notes = []
    for each in results:
        good = sum(tried.ok for tried in each.tried)
        what = "; ".join(tried.what for tried in each.tried) or "—"
        result = (
            "works"
            if each.tried and good == len(each.tried) and not each.skipped
            else f"{good} of {len(each.tried)}"
        )
        result = each.skipped if each.skipped and not each.tried else result
        parts.append(f"| {each.client.name} | {each.version or '—'} | {_cell(what)} | {_cell(str(result))} |")
        notes += [
            f"- **{each.client.name}**, {tried.what}: {_cell(tried.note)}"
            for tried in each.tried
            if not tried.ok
        ]
        notes += [
            f"- **{each.client.name}**: {_cell(each.skipped)}" for _ in (1,) if each.skipped and each.tried
        ]
    return "\n".join([*parts, *(["", *WHY, "", *notes] if notes else []), ""])


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")[:300]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clients", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("model", help="a small chat model: a folder or a .gguf file")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="clients whose names have one of these words"
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(platformdirs.user_cache_dir("newleaf")) / "clients",
        help="for environments",
    )
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    parser.add_argument(
        "--max-output", type=int, default=1024, help="tokens that the server writes for one text at most"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/compatibility.md"))
    args = parser.parse_args()
    args.home.mkdir(parents=True, exist_ok=True)
    chosen = [
        each
        for each in CLIENTS
        if not args.only or any(word.lower() in each.name.lower() for word in args.only)
    ]
    results = []
    with serving(args.model, args.home, args.max_output) as url:
        for client in chosen:
            found = run(client, url, args.home, args.fresh)
            good = sum(tried.ok for tried in found.tried)
            print(
                f"{client.name} {found.version}: {found.skipped or ''} {good} of {len(found.tried)}",
                flush=True,
            )
            for tried in found.tried:
                print(f"  {'ok ' if tried.ok else 'NOT'} {tried.what}: {tried.note[:100]}", flush=True)
            results.append(found)
    args.out.write_text(table(results, Path(args.model).name), "utf-8")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
