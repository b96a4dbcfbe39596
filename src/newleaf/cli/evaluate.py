"""`newleaf evaluate`: a model's scores on tasks and files, with their uncertainty, and against another
model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from newleaf.cli.console import stdout_console
from newleaf.cli.shared_options import add_context_options, add_model_options, apply_offline

EPILOG = (
    "tasks: hellaswag, arc_easy, mmlu (or mmlu_SUBJECT), truthfulqa_mc1, lambada, sst2, gsm8k_cot, "
    "humaneval, speed; lm_eval:NAME for a "
    "task of lm-evaluation-harness; or a file: text, or rows (.jsonl, .json, .csv, .tsv, .parquet) of "
    "{prompt, references}, of "
    "{messages}, or of one of the tasks"
)

DATA = (
    ("field", "of rows of text: the field that holds it (default: text)"),
    ("text", "of labelled rows: the field of the text, or of the first of two (default: guessed)"),
    ("second", "of labelled pairs: the field of the second text"),
    ("choices", "of rows with continuations: their field, or fields with commas between them"),
    ("label", "of labelled rows: the field of the label (default: guessed)"),
    ("encoding", "of files that are not UTF-8 (default: guessed)"),
    ("document", "of a .txt file: file, line or blank-line (default: file)"),
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("evaluate", help="score a model on tasks and files", epilog=EPILOG)
    parser.add_argument(
        "model",
        help="a run, a model folder, a .gguf file, owner/name of the Hub, or http://… of an "
        "OpenAI-compatible server",
    )
    parser.add_argument("tasks", nargs="+", metavar="TASK_OR_FILE", help="see below")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the folder of the tasks' files; for lm_eval: tasks, of the data sets",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows or documents of each")
    parser.add_argument(
        "--shots", type=int, metavar="K", help="examples before each question (default: the task's own)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write results, report, chart and every answer here; a second start goes on",
    )
    parser.add_argument("--against", metavar="MODEL_B", help="compare with this model, item by item")
    parser.add_argument(
        "--contamination",
        action="append",
        metavar="TEXT",
        help="look for the tasks' rows in this training text or shard",
    )
    parser.add_argument(
        "--stride", type=int, help="for texts: tokens that each window adds (default: the whole context)"
    )
    parser.add_argument(
        "--template",
        help="for {prompt, references}: plain, tldr, equals, answer, question, arrow, or text with "
        "{prompt} in it",
    )
    parser.add_argument(
        "--chat", action="store_true", help="send prompts as messages in the model's chat template"
    )
    parser.add_argument(
        "--max-tokens", type=int, help="maximum number of new tokens (default: the task's own)"
    )
    parser.add_argument("--temperature", type=float, help="sampling temperature (default: 0, greedy)")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="humaneval: programs for each problem (default: 1)"
    )
    parser.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="humaneval: run programs that the model writes, in a sandbox",
    )
    parser.add_argument("--seed", type=int, help="random seed (default: 0)")
    for name, what in DATA:
        parser.add_argument(f"--data.{name}", metavar="NAME", help=what)
    add_model_options(parser)
    add_context_options(parser)
    parser.set_defaults(run=run, name="evaluate")


def run(args: argparse.Namespace) -> int:
    apply_offline(args)
    from newleaf.api.evaluating import evaluation

    data = {
        name: getattr(args, f"data.{name}") for name, _ in DATA if getattr(args, f"data.{name}") is not None
    }
    names = ("limit", "shots", "stride", "template", "max_tokens", "temperature", "samples", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    found = evaluation(
        args.model,
        args.tasks,
        args.data_dir,
        out=args.out,
        against=args.against,
        contamination=args.contamination or (),
        allow_code_execution=args.allow_code_execution,
        weights=args.weights,
        device=args.device,
        threads=args.threads,
        context=args.context,
        context_method=args.context_method,
        tokenizer=args.tokenizer,
        chat=args.chat,
        data=data,
        **given,
    )
    if args.json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
        return 0
    from newleaf.evaluation.terminal_table import table

    stdout_console().print(table(found))
    if args.out is not None:
        print(f"{args.out}: results.json, report.md, results.csv, results.png and answers/")
    return 0
