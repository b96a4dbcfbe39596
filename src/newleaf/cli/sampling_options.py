"""Sampling options on the command line, for every command that writes."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from newleaf.cli.arguments import Repeated
from newleaf.errors import InputError
from newleaf.generate.options import ValidUtf8

# Option → type and help. The name in Python is the same, with underscores.
OPTIONS: dict[str, tuple[type, str]] = {
    "--max-tokens": (int, "tokens to write at most (default: 100; in a chat 1024)"),
    "--min-tokens": (int, "no end of text before this many"),
    "--temperature": (
        float,
        "0 is greedy (default: 0.8; in a chat the model's own, or 0.7 with --min-p 0.05)",
    ),
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
PAIRS = {
    "--logit-bias": ("ID=BIAS", "add to a token's logit"),
    "--force-token": ("PLACE=ID", "the token at this place, from 0"),
}
LISTS = {"--stop-id": "end before this token", "--ban-token": "never write this token"}


def add_sampling_options(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """All of them, but for the flags to `leave_out`."""
    for flag, (kind, text) in OPTIONS.items():
        if flag not in leave_out:
            parser.add_argument(flag, type=kind, help=text)
    for flag, (shape, text) in PAIRS.items():
        parser.add_argument(flag, action="append", metavar=shape, help=f"{text}; may be given several times")
    for flag, text in LISTS.items():
        parser.add_argument(
            flag, action="append", type=int, metavar="ID", help=f"{text}; may be given several times"
        )
    parser.add_argument("--stop", action="append", help="end before this text; may be given several times")
    parser.add_argument(
        "--choice",
        action=Repeated,
        metavar="TEXT",
        help="write one of these texts; given several times, once for each",
    )
    parser.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="write JSON that fits the schema in this file"
    )
    parser.add_argument("--json-object", action="store_true", help="write a JSON object")
    parser.add_argument(
        "--grammar", type=Path, metavar="FILE", help="write what the Lark grammar in this file allows"
    )
    parser.add_argument(
        "--valid-utf8",
        choices=get_args(ValidUtf8),
        help="which tokens that would make no UTF-8 are chosen anew (default: sampled)",
    )
    parser.add_argument(
        "--speculation",
        choices=["auto", "off"],
        help="propose tokens where a text repeats itself (default: auto); changes no text",
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by their names in Python."""
    names = [flag[2:].replace("-", "_") for flag in OPTIONS] + [
        "stop",
        "choice",
        "n",
        "valid_utf8",
        "speculation",
        "truncate",
    ]
    options = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    options |= {name: True for name in ("json_object", "echo") if getattr(args, name, False)}
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
