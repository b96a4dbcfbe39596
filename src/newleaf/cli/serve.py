"""`newleaf serve`: models behind the interface that applications know from OpenAI."""

from __future__ import annotations

import argparse
import ipaddress
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from newleaf.cli.serve_models import byte_count, model_sources, parse_cache
from newleaf.cli.shared_options import add_context_options, add_model_options, apply_offline
from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.serve.http.server_settings import Settings

# Option → type, what it is called in Limits, and help.
LIMITS: dict[str, tuple[type, str, str]] = {
    "--max-body": (int, "body", "bytes of a request (default: 4 MiB)"),
    "--max-upload": (int, "upload", "bytes of a file for batches (default: 128 MiB)"),
    "--max-prompt": (int, "prompt", "tokens of a prompt (default: what the context holds)"),
    "--max-reading": (
        int,
        "reading",
        "tokens read for the embeddings or prompt scores of one request (default: 300,000)",
    ),
    "--max-output": (
        int,
        "output",
        "new tokens of one text, also the default of requests without max_tokens (default: 4096)",
    ),
    "--max-queue": (
        int,
        "queue",
        "texts running or waiting, for each model; more are refused with 429 (default: 1024)",
    ),
    "--max-connections": (int, "connections", "maximum number of open connections (default: 4096)"),
    "--rate": (
        int,
        "requests_per_minute",
        "requests a minute for each key, or in all without keys (default: no limit)",
    ),
    "--token-rate": (
        int,
        "tokens_per_minute",
        "prompt and new tokens a minute, likewise (default: no limit)",
    ),
    "--drain": (float, "drain_seconds", "seconds that answers may take to end after SIGTERM (default: 120)"),
    "--header-seconds": (
        float,
        "header_seconds",
        "seconds until a request's head must be there (default: 15)",
    ),
    "--body-seconds": (float, "body_seconds", "seconds until its body must be there (default: 60)"),
    "--stall-seconds": (
        float,
        "stall_seconds",
        "seconds that a client may leave its answer unread (default: 60)",
    ),
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "serve",
        help="answer over HTTP, as OpenAI's API does",
        description="Answer over HTTP, as OpenAI's API does, with the page to "
        "talk on at /. See docs/serve.md.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="[NAME=]MODEL",
        help="runs, model folders, .gguf files or names of the Hub",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (default: 127.0.0.1, which only this machine reaches)",
    )
    parser.add_argument("--port", type=int, default=8000, help="the port (default: 8000); 0 takes a free one")
    parser.add_argument(
        "--allowed-hosts",
        metavar="NAME,…",
        help="further host names that requests may use, or '*' for any "
        "(default: localhost and --host's; any where --host is an address that others reach)",
    )
    parser.add_argument(
        "--trusted-proxies",
        metavar="ADDRESS,…",
        help="addresses or networks of reverse proxies, such as 127.0.0.1 or 10.0.0.0/8, "
        "whose X-Forwarded-For names the client in the log "
        "(default: none is believed)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        default=16,
        help="texts that a model generates at once, its batch size (default: 16)",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="bytes for all models' weights, such as 8G; models are opened and evicted as they are asked for",
    )
    parser.add_argument(
        "--cache",
        metavar="[bf16|int8][,SIZE]",
        help="number format of the KV cache, its bytes for each model, or both "
        "(default: bf16, half of the free memory)",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        metavar="[BASE:]NAME=DIR",
        help="an adapter over the first model, or the one named, requested as a model of this "
        "name; may be given several times",
    )
    parser.add_argument(
        "--draft",
        action="append",
        metavar="[NAME=]MODEL",
        help="a small model with the same tokenizer for speculative decoding with the first model, or the "
        "one named; changes no text; may be given several times",
    )
    parser.add_argument(
        "--tokenizer",
        action="append",
        metavar="[NAME=]PATH",
        help="a tokenizer's folder or file in place of that of the first model, or of the one named; may be "
        "given several times",
    )
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="a Jinja chat template in place of the models' own"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="API keys, hashed; without it no request needs one"
    )
    parser.add_argument(
        "--add-key", metavar="NAME", help="make a key, add it to the file of --keys, print it, and exit"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where files and batches are kept (default: a folder of the user's, one for each port)",
    )
    parser.add_argument("--runs", type=Path, metavar="DIR", help="training runs for the page to show")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse unknown fields of requests (default: ignore them, and name them in the header "
        "x-newleaf-ignored)",
    )
    parser.add_argument(
        "--log",
        choices=["json", "off"],
        default="json",
        help="a JSON object for each request on standard error (default)",
    )
    for flag, (kind, _, text) in LIMITS.items():
        parser.add_argument(flag, type=kind, help=text)
    kinds = ["fp32", "bf16", "int8", "int4"]
    parser.add_argument(
        "--weights", choices=kinds, help="convert or quantize the weights on opening (default: as stored)"
    )
    parser.add_argument(
        "--draft-weights", choices=kinds, help="--weights of the drafts (default: those of their models)"
    )
    add_model_options(parser, weights=False)  # adapters here are models with names of their own
    add_context_options(parser)
    parser.set_defaults(run=run, name="serve")


def run(args: argparse.Namespace) -> int:
    if args.add_key is not None:
        return _add_key(args)
    if not args.models:
        raise InputError("a server needs a model: newleaf serve MODEL")
    apply_offline(args)
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"serve needs {error.name}: pip install 'newleaf[serve]'") from None
    from newleaf.serve.http.logs import Logs
    from newleaf.serve.http.request_metrics import Metrics
    from newleaf.serve.models.loaded_model import WorkerThreads
    from newleaf.serve.models.model_registry import ModelLimits, ModelRegistry
    from newleaf.serve.models.server_context import ServerContext
    from newleaf.serve.server import bind, serve

    listening = bind(args.host, args.port)
    host, port = listening.getsockname()[:2]
    settings = _settings(args, port)
    sources = model_sources(args)
    room = ModelLimits(
        byte_count(args.memory, "--memory"), parse_cache(args.cache)[1], args.slots, settings.limits.queue
    )
    logs, threads = Logs(sys.stderr if args.log == "json" else None), WorkerThreads()
    server_context = ServerContext(
        settings, ModelRegistry(sources, room, threads, logs), threads, Metrics(), logs
    )
    _warn(args.host, settings)

    def ready() -> None:
        print(
            _greeting(
                f"http://{_typed(host)}:{port}",
                list(server_context.registry.names),
                args.json,
                settings.keys is not None,
            ),
            flush=True,
        )

    if sys.stdout.isatty() and not args.json:
        print(f"Opening {sources[0].name} …", flush=True)
    serve(server_context, listening, ready)
    return 0


def _add_key(args: argparse.Namespace) -> int:
    from newleaf.serve.http.api_keys import add_key

    if args.keys is None:
        raise InputError("--add-key: needs --keys FILE")
    print(add_key(args.keys, args.add_key))
    return 0


def _settings(args: argparse.Namespace, port: int) -> Settings:
    import platformdirs

    from newleaf.serve.http.api_keys import read_keys
    from newleaf.serve.http.server_settings import Limits, Settings

    given = {
        name: value
        for flag, (_, name, _) in LIMITS.items()
        if (value := getattr(args, flag[2:].replace("-", "_"))) is not None
    }
    # Servers on one machine differ in their ports, and one that starts again has the same.
    state = args.state or Path(platformdirs.user_data_dir("newleaf", appauthor=False)) / f"serve-{port}"
    keys = read_keys(args.keys) if args.keys is not None else None
    hosts, proxies = _hosts(args.host, args.allowed_hosts), _proxies(args.trusted_proxies)
    return Settings(Limits(**given), keys, hosts, proxies, state, runs=_runs(args.runs), strict=args.strict)


def _hosts(host: str, given: str | None) -> frozenset[str] | None:
    """The names under which the server may be asked. One that others reach cannot know its names, unless they
    are given."""
    from newleaf.serve.http.host_check import LOOPBACK_NAMES, host_name

    names = [each.strip() for each in (given or "").split(",") if each.strip()]
    if "*" in names or (not names and not _is_local(host)):
        return None
    found = {
        each: host_name(f"[{each}]" if each.count(":") > 1 and "[" not in each else each)
        for each in [host, *names]
    }
    if wrong := [each for each, name in found.items() if name is None]:
        raise InputError(f"--allowed-hosts: {wrong[0]!r} is not a host's name")
    return frozenset([*LOOPBACK_NAMES, *(name for name in found.values() if name is not None)])


def _proxies(given: str | None) -> tuple[str, ...]:
    """Addresses and networks. Names are not taken: whoever answers for a name could choose who is
    believed."""
    found = tuple(each.strip() for each in (given or "").split(",") if each.strip())
    for each in found:
        try:
            ipaddress.ip_network(each)
        except ValueError as error:
            raise InputError(
                f"--trusted-proxies: {error}; give addresses or networks such as 127.0.0.1 or 10.0.0.0/8"
            ) from None
    return found


def _greeting(url: str, names: list[str], as_json: bool, keys: bool) -> str:
    """What is said once requests are answered: a line, and in a terminal what to do with it."""
    if as_json:
        return json.dumps({"url": f"{url}/v1", "page": f"{url}/", "models": names})
    if not sys.stdout.isatty():
        return f"newleaf: {', '.join(names)} at {url}/v1, the page at {url}/"
    rows = [
        ("to talk", f"open {url}/ in a browser"),
        ("programs", f"export OPENAI_BASE_URL={url}/v1"),
        ("", f"export OPENAI_API_KEY={'KEY' if keys else 'none'}"),
        ("to end", "Ctrl-C"),
    ]
    lines = textwrap.wrap(
        f"newleaf: {', '.join(names)}", shutil.get_terminal_size().columns, subsequent_indent="  "
    )
    return "\n".join([*lines, *(f"  {name:<10}{text}" for name, text in rows)])


def _typed(host: str) -> str:
    """The host as it stands in an address; one that means every address of this machine is reached here as
    the first."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _runs(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise InputError(f"--runs: {folder} is no folder")
    return folder


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _warn(host: str, settings: Settings) -> None:
    if not _is_local(host) and settings.keys is None:
        print(
            f"newleaf: anybody who reaches {host} can use this server; --keys FILE asks for keys",
            file=sys.stderr,
            flush=True,
        )
