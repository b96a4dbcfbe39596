"""`newleaf classify`: a tuned model labels texts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.cli.shared_options import add_model_options, add_tokenizer_option, apply_offline
from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.api import Model
    from newleaf.tune.labels.text_classifier import Classification, Question

AT_ONCE = 512  # texts
DATA = (
    (
        "text",
        ("--data.text", "--data.field"),
        "of rows: the field of the text, or of the first of two (default: guessed)",
    ),
    ("second", ("--data.second",), "of rows of pairs: the field of the second text"),
    (
        "choices",
        ("--data.choices",),
        "of rows with continuations: their field, or fields with commas between them",
    ),
    ("encoding", ("--data.encoding",), "of a file that is not UTF-8 (default: guessed)"),
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("classify", help="label texts with a tuned model")
    parser.add_argument("model", help="a run of newleaf finetune, or a folder with a sequence classifier")
    parser.add_argument(
        "text",
        nargs="*",
        help="texts, one label each; with a model for pairs two texts; - reads lines of standard input",
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="a .txt file, one text a line, or rows (.jsonl, .json, .csv, .tsv, .parquet), read as "
        "finetune reads them; "
        "line k of the output is about line or row k",
    )
    for name, flags, what in DATA:
        parser.add_argument(*flags, dest=f"data.{name}", metavar="NAME", help=what)
    parser.add_argument(
        "--weights", choices=["fp32", "bf16"], help="convert the weights on opening (default: as stored)"
    )
    add_tokenizer_option(parser)
    add_model_options(parser, weights=False)
    parser.set_defaults(run=run, name="classify")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    if bool(args.text) == bool(args.file):
        raise InputError(
            "name the texts to label, or a file of them with --file, or - for lines of standard input"
        )
    for _, flags, _ in DATA:
        if args.file is None and getattr(args, flags[0][2:]) is not None:
            raise InputError(f"{flags[0]}: goes with --file")
    from newleaf.api.opening import load_for_text

    model = load_for_text(args.model, args.weights, args.device, args.threads, tokenizer=args.tokenizer)
    for questions in _batches(model, args):
        answers = iter(model.classify_with_probabilities([each for each in questions if each is not None]))
        for question in questions:
            if question is None:  # a blank line of the file: line k of the output is about its line k
                print()
                continue
            found = next(answers)
            if model.gives_numbers:
                _show_number(question, found, args.json)
            elif args.json:
                chances = [
                    {"label": label, "probability": round(value, 6)}
                    for label, value in found.probabilities.items()
                ]
                row = {"text": question, "label": found.answer, "probabilities": chances} | (
                    {"cut": True} if found.cut else {}
                )
                print(json.dumps(row, ensure_ascii=False))
            else:
                answer = found.answer if isinstance(found.answer, list) else [found.answer]
                sure = "" if isinstance(found.answer, list) else f"\t{found.probabilities[found.answer]:.3f}"
                print((", ".join(map(str, answer)) or "none") + sure + ("\t(cut)" if found.cut else ""))
    return 0


def _show_number(question: Any, found: Classification, as_json: bool) -> None:
    """A regression's answer: the value as it is, without label and probability."""
    if as_json:
        print(
            json.dumps(
                {"text": question, "value": found.answer} | ({"cut": True} if found.cut else {}),
                ensure_ascii=False,
            )
        )
        return
    values = found.answer if isinstance(found.answer, list) else [found.answer]
    print(", ".join(f"{value:g}" for value in values) + ("\t(cut)" if found.cut else ""))


def _batches(model: Model, args: argparse.Namespace) -> Iterator[list[Question | None]]:
    """Questions, some at a time; None where a line is blank."""
    every: list[Question | None]
    if args.file is not None:
        every = _of_file(model, args)
    elif args.text == ["-"]:
        every = [line.rstrip("\r\n") if line.strip() else None for line in sys.stdin]
    else:
        every = list(args.text) if model.takes_one_text else [args.text]
    for start in range(0, len(every), AT_ONCE):
        yield every[start : start + AT_ONCE]


def _of_file(model: Model, args: argparse.Namespace) -> list[Question | None]:
    from newleaf.data.encodings import canonical_encoding
    from newleaf.tune.labels.fields import Wanted
    from newleaf.tune.labels.unlabelled_rows import read_questions

    given = {name: getattr(args, f"data.{name}") for name, _, _ in DATA}
    choices = tuple(given["choices"].split(",")) if given["choices"] else ()
    encoding = canonical_encoding(given["encoding"]) if given["encoding"] else None
    if model.labels is None:
        model.classify_with_probabilities(["?"])  # says that this is no classifier
    assert model.labels is not None
    return read_questions(
        args.file, model.labels.head.shape, Wanted(given["text"], given["second"], choices), encoding
    )
