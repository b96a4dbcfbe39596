"""`newleaf generate`: a model goes on with a prompt."""

from __future__ import annotations

import argparse
import json
import sys

from newleaf.cli.options import add_model_options, heed_offline
from newleaf.errors import InputError
from newleaf.text.printable import printable


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write with a model")
    parser.add_argument("model", help="a run, a model folder, or owner/name of the Hub")
    parser.add_argument("prompt", nargs="?", default="", help="the text to go on with; - reads it from standard input (default: none)")
    parser.add_argument("--max-tokens", type=int, help="tokens to write at most (default: 100)")
    parser.add_argument("--min-tokens", type=int, help="no end of text before this many")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, help="choose among the k likeliest")
    parser.add_argument("--top-p", type=float, help="choose among the fewest whose probabilities reach p")
    parser.add_argument("--min-p", type=float, help="choose among those at least this fraction as likely as the likeliest")
    parser.add_argument("--repetition-penalty", type=float, help="above 1 makes repeating unlikelier")
    parser.add_argument("--no-repeat-ngram-size", type=int, help="never write an n-gram of this size twice")
    parser.add_argument("--stop", action="append", help="end before this text; may be given several times")
    parser.add_argument("--samples", type=int, default=1, help="how many continuations to write")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")
    add_model_options(parser)
    parser.set_defaults(run=run, name="generate")


def run(args: argparse.Namespace) -> int:
    heed_offline(args)
    from newleaf import api

    names = (
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "stop",
        "seed",
    )
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.samples < 1:
        raise InputError(f"--samples: must be at least 1, not {args.samples}")
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    model = api.load(args.model, args.weights, args.device, args.threads)
    if args.samples == 1 and not args.json:
        shown = printable if sys.stdout.isatty() else str
        sys.stdout.write(prompt)
        for text in model.stream(prompt, **options):
            sys.stdout.write(shown(text))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0
    texts, ends = [""] * args.samples, [""] * args.samples
    for piece in model.pieces(prompt, args.samples, **options):
        texts[piece.sample] += piece.text
        ends[piece.sample] = piece.end or ends[piece.sample]
    if args.json:
        rows = [{"text": text, "end": end} for text, end in zip(texts, ends, strict=True)]
        print(json.dumps({"prompt": prompt, "samples": rows}, ensure_ascii=False, indent=2))
    else:
        for number, text in enumerate(texts, 1):
            print(f"--- {number} of {args.samples}\n{prompt}{printable(text) if sys.stdout.isatty() else text}")
    return 0
