"""`newleaf classify`: a tuned model labels texts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.cli.options import add_model_options, heed_offline
from newleaf.errors import InputError

if TYPE_CHECKING:
    from newleaf.api import Model
    from newleaf.tune.labels.model import Judged

AT_ONCE = 512  # texts


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("classify", help="label texts with a tuned model")
    parser.add_argument("model", help="a run of newleaf finetune, or a folder with a sequence classifier")
    parser.add_argument("text", nargs="*", help="texts, one label each; with a model for pairs two texts; - reads lines of standard input")
    parser.add_argument(
        "--file",
        type=Path,
        help="a .txt file, one text a line, or .jsonl with a field text (texts: a list) in each; line k of the output is about line k",
    )
    parser.add_argument("--weights", choices=["fp32", "bf16"], help="convert the weights on opening (default: as stored)")
    add_model_options(parser, weights=False)
    parser.set_defaults(run=run, name="classify")


def run(args: argparse.Namespace) -> int:
    heed_offline(args)
    if bool(args.text) == bool(args.file):
        raise InputError("name the texts to label, or a file of them with --file, or - for lines of standard input")
    from newleaf import api

    model = api.load(args.model, args.weights, args.device, args.threads)
    for questions in _batches(model, args):
        answers = iter(model.judge([each for each in questions if each]))
        for question in questions:
            if not question:  # an empty line of the file: line k of the output is about its line k
                print()
                continue
            found = next(answers)
            if model.gives_numbers:
                _show_number(question, found, args.json)
            elif args.json:
                chances = [{"label": label, "probability": round(value, 6)} for label, value in found.probabilities.items()]
                row = {"text": question, "label": found.answer, "probabilities": chances} | ({"cut": True} if found.cut else {})
                print(json.dumps(row, ensure_ascii=False))
            else:
                answer = found.answer if isinstance(found.answer, list) else [found.answer]
                sure = "" if isinstance(found.answer, list) else f"\t{found.probabilities[found.answer]:.3f}"
                print((", ".join(map(str, answer)) or "none") + sure + ("\t(cut)" if found.cut else ""))
    return 0


def _show_number(question: Any, found: Judged, as_json: bool) -> None:
    """A regression's answer: the value as it is, without label and probability."""
    if as_json:
        print(json.dumps({"text": question, "value": found.answer} | ({"cut": True} if found.cut else {}), ensure_ascii=False))
        return
    values = found.answer if isinstance(found.answer, list) else [found.answer]
    print(", ".join(f"{value:g}" for value in values) + ("\t(cut)" if found.cut else ""))


def _batches(model: Model, args: argparse.Namespace) -> Any:
    """Questions, some at a time."""
    if args.file is not None:
        every = _of_file(args.file)
    elif args.text == ["-"]:
        every = [_blank_is_empty(line.rstrip("\r\n")) for line in sys.stdin]
    else:
        every = list(args.text) if model.takes_one_text else [args.text]
    for start in range(0, len(every), AT_ONCE):
        yield every[start : start + AT_ONCE]


def _of_file(path: Path) -> list[Any]:
    """One entry for each line, so that line k of the output is about line k: an empty one for a blank line."""
    from newleaf.data.problems import BadDocumentError
    from newleaf.data.rows import FORMATS, file_lines, file_rows, format_of, parse_row, stop_at

    if format_of(path) in FORMATS and format_of(path) != ".jsonl":
        return [_question(row.values, row.where) for row in file_rows(path)]
    found: list[Any] = []
    for number, line in file_lines(path):
        if format_of(path) != ".jsonl" or not line.strip():
            found.append(_blank_is_empty(line))
            continue
        try:
            found.append(_question(parse_row(line, f"{path}:{number}"), f"{path}:{number}"))
        except BadDocumentError as problem:
            stop_at(problem)
    return found


def _question(row: dict[str, Any], where: str) -> Any:
    """The text, or the texts, of a row."""
    found = row["texts"] if "texts" in row else row.get("text")
    if not (isinstance(found, str) or (isinstance(found, list) and found and all(isinstance(each, str) for each in found))):
        raise InputError(f"{where}: a row has a field text, or texts for a list of them; this one has {', '.join(row) or 'none'}")
    return found


def _blank_is_empty(line: str) -> str:
    return line if line.strip() else ""
