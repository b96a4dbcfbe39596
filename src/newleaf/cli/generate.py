"""`newleaf generate`: a model goes on with a prompt, or with every prompt of a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.cli.options import add_model_options, heed_offline
from newleaf.errors import InputError
from newleaf.text.printable import printable

if TYPE_CHECKING:
    from newleaf.api import Model
    from newleaf.generate.completion import Completion
    from newleaf.generate.logprobs import TokenScore

# Option → type and help. The name in Python is the same, with underscores.
OPTIONS: dict[str, tuple[type, str]] = {
    "--max-tokens": (int, "tokens to write at most (default: 100)"),
    "--min-tokens": (int, "no end of text before this many"),
    "--temperature": (float, "0 is greedy (default: 0.8)"),
    "--top-k": (int, "choose among the k likeliest"),
    "--top-p": (float, "choose among the fewest whose probabilities reach p"),
    "--min-p": (float, "choose among those at least this fraction as likely as the likeliest"),
    "--typical-p": (float, "choose among those of the most expected surprise, up to this probability"),
    "--repetition-penalty": (float, "above 1 makes repeating unlikelier, the prompt's tokens too"),
    "--frequency-penalty": (float, "taken off a token's logit for each time it was written"),
    "--presence-penalty": (float, "taken off a token's logit once it was written"),
    "--no-repeat-ngram-size": (int, "never write an n-gram of this size twice"),
    "--guidance-scale": (float, "classifier-free guidance; 1 is none"),
    "--negative-prompt": (str, "what guidance leads away from (default: the prompt's last token)"),
    "--regex": (str, "write only what this regular expression matches"),
    "--best-of": (int, "write so many, show the likeliest"),
    "--beams": (int, "beam search with so many beams"),
    "--length-penalty": (float, "beams: above 0 favours long texts (default: 1)"),
    "--logprobs": (int, "show each token's log-probability, with so many alternatives"),
    "--prompt-logprobs": (int, "the same for the prompt's tokens"),
    "--seed": (int, "the same seed gives the same text"),
}
PAIRS = {"--logit-bias": ("ID=BIAS", "add to a token's logit"), "--force-token": ("PLACE=ID", "the token at this place, from 0")}
LISTS = {"--stop-id": "end before this token", "--ban-token": "never write this token"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write with a model")
    parser.add_argument("model", help="a run, a model folder, a .gguf file, or owner/name of the Hub")
    parser.add_argument("prompt", nargs="?", help="the text to go on with; - reads it from standard input (default: none)")
    for flag, (kind, text) in OPTIONS.items():
        parser.add_argument(flag, type=kind, help=text)
    for flag, (shape, text) in PAIRS.items():
        parser.add_argument(flag, action="append", metavar=shape, help=f"{text}; may be given several times")
    for flag, text in LISTS.items():
        parser.add_argument(flag, action="append", type=int, metavar="ID", help=f"{text}; may be given several times")
    parser.add_argument("--stop", action="append", help="end before this text; may be given several times")
    parser.add_argument("--choice", nargs="+", metavar="TEXT", help="write one of these")
    parser.add_argument("--json-schema", type=Path, metavar="FILE", help="write JSON that fits the schema in this file")
    parser.add_argument("--json-object", action="store_true", help="write a JSON object")
    parser.add_argument("--grammar", type=Path, metavar="FILE", help="write what the Lark grammar in this file allows")
    parser.add_argument("--n", "--samples", dest="n", type=int, help="how many continuations to write")
    parser.add_argument("--echo", action="store_true", help="the prompt at the beginning of each text, in JSON too")
    parser.add_argument(
        "--speculation", choices=["auto", "off"], help="guess tokens where a text repeats itself (default: auto); changes no text"
    )
    parser.add_argument("--truncate", choices=["left"], help="cut off the beginning of a prompt that is too long")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a file of prompts: .txt, one a line, or .jsonl with a field prompt")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with --prompts: the .jsonl file to write; a second start goes on with it")
    parser.add_argument("--batch", type=int, help="with --prompts: how many are written side by side (default: 16)")
    add_model_options(parser)
    parser.set_defaults(run=run, name="generate")


def run(args: argparse.Namespace) -> int:
    heed_offline(args)
    from newleaf import api

    options = sampling_options(args)
    if args.prompts is None and (args.out is not None or args.batch is not None):
        raise InputError(f"{'--out' if args.out is not None else '--batch'}: goes with --prompts FILE")
    if args.prompts is not None:
        return _write_file(args, options)
    if args.prompt == "-":
        args.prompt = sys.stdin.read()
    model = api.load(args.model, args.weights, args.device, args.threads)
    if args.json or "logprobs" in options or "prompt_logprobs" in options or options.get("n", 1) > 1:
        _show_all(model, args.prompt or "", options, args.json)
    else:
        _show_as_it_comes(model, args.prompt or "", options)
    return 0


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by their names in Python."""
    names = [flag[2:].replace("-", "_") for flag in OPTIONS] + ["stop", "choice", "n", "speculation", "truncate"]
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    options |= {name: True for name in ("json_object", "echo") if getattr(args, name)}
    for given, name in (("stop_id", "stop_ids"), ("ban_token", "banned_tokens")):
        if getattr(args, given) is not None:
            options[name] = getattr(args, given)
    for given, name in (("logit_bias", "logit_bias"), ("force_token", "forced_tokens")):
        if getattr(args, given) is not None:
            options[name] = dict(_pair(text, "--" + given.replace("_", "-")) for text in getattr(args, given))
    for name in ("json_schema", "grammar"):
        if getattr(args, name) is not None:
            options[name] = _content(getattr(args, name))
    return options


def _pair(text: str, flag: str) -> tuple[str, int | float]:
    name, found, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        found = ""
    if not found or not name.isdecimal():
        raise InputError(f"{flag}: {text!r} is not {PAIRS[flag][0]}")
    return name, int(number) if number.is_integer() else number


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


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
    name = model.tokenizer.backend.id_to_token
    if as_json:
        rows = [_as_json(text, name) for text in texts]
        print(json.dumps({"prompt": prompt, "samples": rows}, ensure_ascii=False, indent=2))
        return
    for number, text in enumerate(texts, 1):
        whole = text.text if options.get("echo") else prompt + text.text
        print((f"--- {number} of {len(texts)}\n" if len(texts) > 1 else "") + (printable(whole) if sys.stdout.isatty() else whole))
        for token in [*text.prompt_tokens, *text.tokens]:
            others = "   ".join(f"{name(each)!r} {value:.3f}" for each, value in token.top)
            print(f"{'' if token.logprob is None else f'{token.logprob:.3f}':>9}  {name(token.id)!r:<20} {others}".rstrip())
        _warn(text.end, options)


def _warn(end: str | None, options: dict[str, Any]) -> None:
    asked = [name for name in ("json_schema", "json_object", "regex", "grammar", "choice") if options.get(name) is not None]
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
    return found | ({"rank": text.rank} if text.rank is not None else {})


def _write_file(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from newleaf import api
    from newleaf.train.monitor import pick_monitor

    if args.prompt is not None:
        raise InputError("--prompts: takes the place of the prompt; give one of the two")
    if args.out is None:
        raise InputError("--out is missing: the .jsonl file to write")
    model = api.load(args.model, args.weights, args.device, args.threads)
    monitor = pick_monitor()
    try:
        written = model.generate_file(
            args.prompts, args.out, args.batch or 16, lambda done, total: monitor.stage("writing", done, total), **options
        )
    finally:
        monitor.close()
    if args.json:
        print(json.dumps({"out": str(args.out), "written": written}))
    else:
        print(f"{written} prompts written to {args.out}" if written else f"{args.out} has all of them already")
    return 0
