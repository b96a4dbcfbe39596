"""`newleaf generate`: continue a prompt, or every prompt of a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.cli.sampling_options import add_sampling_options, given_options
from newleaf.cli.shared_options import (
    add_cache_option,
    add_context_options,
    add_draft_options,
    add_model_options,
    apply_offline,
    open_draft,
    opening_options,
)
from newleaf.errors import InputError
from newleaf.text.terminal_text import printable

if TYPE_CHECKING:
    from newleaf.api import Model
    from newleaf.generate.sampling.logprobs import TokenScore
    from newleaf.generate.text.completion import Completion


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="generate text that continues a prompt")
    parser.add_argument("model", help="a run, a model folder, a .gguf file, or owner/name of the Hub")
    parser.add_argument(
        "prompt", nargs="?", help="the text to continue; - reads it from standard input (default: none)"
    )
    add_sampling_options(parser)
    parser.add_argument("--n", "--samples", dest="n", type=int, help="number of continuations")
    parser.add_argument("--echo", action="store_true", help="print the prompt before each text, in JSON too")
    parser.add_argument("--truncate", choices=["left"], help="cut a prompt that is too long on the left")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a file of prompts: .txt, one a line, or rows with a field prompt",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="with --prompts: the .jsonl file to write; a second start continues it",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="with --prompts: start --out again, whatever it holds"
    )
    parser.add_argument("--batch", type=int, help="with --prompts: prompts in a batch (default: 16)")
    add_draft_options(parser)
    add_model_options(parser)
    add_context_options(parser)
    add_cache_option(parser)
    parser.set_defaults(run=run, name="generate")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    from newleaf.api.opening import load_for_text

    options = given_options(args)
    alone = [
        flag
        for flag, given in (
            ("--out", args.out),
            ("--batch", args.batch),
            ("--overwrite", args.overwrite or None),
        )
        if given is not None
    ]
    if args.prompts is None and alone:
        raise InputError(f"{alone[0]}: goes with --prompts FILE")
    if args.prompts is not None:
        return _write_file(args, options)
    if args.prompt == "-":
        args.prompt = sys.stdin.read()
    model = load_for_text(args.model, **opening_options(args))
    options["draft"] = open_draft(args)
    if args.json or "logprobs" in options or "prompt_logprobs" in options or options.get("n", 1) > 1:
        _show_all(model, args.prompt or "", options, args.json)
    else:
        _show_as_it_comes(model, args.prompt or "", options)
    return 0


def _show_as_it_comes(model: Model, prompt: str, options: dict[str, Any]) -> None:
    shown = printable if sys.stdout.isatty() else str
    end = None
    pieces = model.pieces(prompt, **options | {"echo": False})
    for number, piece in enumerate(pieces):
        if number == 0:  # what is wrong with the options has been said by now
            sys.stdout.write(prompt)
        sys.stdout.write(shown(piece.text))
        sys.stdout.flush()
        end = piece.end or end
    sys.stdout.write("\n")
    _warn(end, options)


def _show_all(model: Model, prompt: str, options: dict[str, Any], as_json: bool) -> None:
    texts = model.complete(prompt, **options)
    name = model.tokenizer.token_name
    if as_json:
        rows = [_as_json(text, name) for text in texts]
        print(json.dumps({"prompt": prompt, "samples": rows}, ensure_ascii=False, indent=2))
        return
    for number, text in enumerate(texts, 1):
        whole = text.text if options.get("echo") else prompt + text.text
        print(
            (f"--- {number} of {len(texts)}\n" if len(texts) > 1 else "")
            + (printable(whole) if sys.stdout.isatty() else whole)
        )
        for token in [*text.prompt_tokens, *text.tokens]:
            others = "   ".join(f"{name(each)!r} {value:.3f}" for each, value in token.top)
            print(
                f"{'' if token.logprob is None else f'{token.logprob:.3f}':>9}  "
                f"{name(token.id)!r:<20} {others}".rstrip()
            )
        _warn(text.end, options)


def _warn(end: str | None, options: dict[str, Any]) -> None:
    asked = [
        name
        for name in ("json_schema", "json_object", "regex", "grammar", "choice")
        if options.get(name) is not None
    ]
    if end == "stuck":
        print("newleaf: the text ends here since the options leave no token that may follow", file=sys.stderr)
    elif end == "length" and asked:
        print(f"newleaf: cut at max_tokens, so the text may not fit the {asked[0]}", file=sys.stderr)


def _as_json(text: Completion, name: Any) -> dict[str, Any]:
    def rows(tokens: list[TokenScore]) -> list[dict[str, Any]]:
        return [
            {
                "id": token.id,
                "token": name(token.id),
                "logprob": token.logprob,
                "top": [[each, name(each), value] for each, value in token.top],
            }
            for token in tokens
        ]

    found: dict[str, Any] = {"text": text.text, "end": text.end}
    found |= {"prompt_tokens": rows(text.prompt_tokens)} if text.prompt_tokens else {}
    found |= {"tokens": rows(text.tokens)} if text.tokens else {}
    found |= {"past_context": True} if text.past_context else {}
    return found | ({"rank": text.rank} if text.rank is not None else {})


def _write_file(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from newleaf.api.opening import load_for_text
    from newleaf.train.display.monitor import pick_monitor

    if args.prompt is not None:
        raise InputError("--prompts: takes the place of the prompt; give one of the two")
    if args.out is None:
        raise InputError("--out is missing: the .jsonl file to write")
    model = load_for_text(args.model, **opening_options(args))
    options["draft"] = open_draft(args)
    monitor = pick_monitor()
    try:
        written = model.generate_file(
            args.prompts,
            args.out,
            16 if args.batch is None else args.batch,
            lambda done, total: monitor.stage("writing", done, total),
            overwrite=args.overwrite,
            **options,
        )
    finally:
        monitor.close()
    if args.json:
        print(json.dumps({"out": str(args.out), "written": written}))
    else:
        print(
            f"{written} prompts written to {args.out}" if written else f"{args.out} has all of them already"
        )
    return 0
