"""Sampling options on the command line, for every command that generates text."""

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
    "--max-tokens": (int, "maximum number of new tokens (default: 100; in a chat 1024)"),
    "--min-tokens": (int, "minimum number of new tokens before the text may end"),
    "--temperature": (
        float,
        "0 is greedy (default: 0.8; in a chat the model's own, or 0.7 with --min-p 0.05)",
    ),
    "--top-k": (int, "sample from the k likeliest tokens"),
    "--top-p": (float, "nucleus sampling: from the smallest set of tokens whose probabilities reach p"),
    "--min-p": (float, "sample from tokens at least this fraction as likely as the likeliest"),
    "--typical-p": (float, "locally typical sampling, up to this probability"),
    "--repetition-penalty": (float, "above 1 makes tokens of the prompt and the text less likely"),
    "--frequency-penalty": (float, "subtracted from a token's logit for each time it was generated"),
    "--presence-penalty": (float, "subtracted from a token's logit once it was generated"),
    "--no-repeat-ngram-size": (int, "generate no n-gram of this size twice"),
    "--guidance-scale": (float, "classifier-free guidance; 1 is none"),
    "--negative-prompt": (str, "the prompt that guidance moves away from (default: the prompt's last token)"),
    "--regex": (str, "generate only text that matches this regular expression"),
    "--best-of": (int, "generate so many texts, show the likeliest"),
    "--beams": (int, "beam search with so many beams"),
    "--length-penalty": (float, "with --beams: above 0 favours longer texts (default: 1)"),
    "--logprobs": (int, "show each token's log-probability, with so many alternatives"),
    "--prompt-logprobs": (int, "the same for the prompt's tokens"),
    "--seed": (int, "the same seed gives the same text"),
}
PAIRS = {
    "--logit-bias": ("ID=BIAS", "add to a token's logit"),
    "--force-token": ("PLACE=ID", "force the token at this position of the text, from 0"),
}
LISTS = {"--stop-id": "stop before this token", "--ban-token": "never generate this token"}


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
    parser.add_argument("--stop", action="append", help="stop before this text; may be given several times")
    parser.add_argument(
        "--choice",
        action=Repeated,
        metavar="TEXT",
        help="generate one of these texts; given once for each",
    )
    parser.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="generate JSON that fits the schema in this file"
    )
    parser.add_argument("--json-object", action="store_true", help="generate a JSON object")
    parser.add_argument(
        "--grammar", type=Path, metavar="FILE", help="generate text that fits the Lark grammar in this file"
    )
    parser.add_argument(
        "--valid-utf8",
        choices=get_args(ValidUtf8),
        help="which tokens are drawn again if they would make invalid UTF-8 (default: sampled)",
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
