"""Claims about command lines: words and options in any order mean the same, and what does not exist gets the
nearest name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from newleaf.cli.main import build_parser, main, parse

COMMANDS = build_parser()[1]


def parsed(*words: str) -> dict[str, Any]:
    return {name: value for name, value in vars(parse(list(words))).items() if name != "run"}


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("generate", [["runs/book"], ["--seed", "1"], ["ROMEO:"]]),
        ("generate", [["runs/book"], ["--json"], ["ROMEO:"], ["--temperature=0.5"], ["--stop", "-"]]),
        (
            "finetune",
            [
                ["MODEL"],
                ["--task", "classify"],
                ["data.csv"],
                ["--optimizer.learning_rate", "3e-4"],
                ["--lora"],
            ],
        ),
        ("finetune", [["MODEL"], ["--data.label=mood"], ["a.csv"], ["b.csv"]]),
        ("classify", [["MODEL"], ["--json"], ["a text"], ["another"]]),
        ("evaluate", [["MODEL"], ["--limit", "3"], ["a.txt"], ["sst2"]]),
        ("pretrain", [["a.txt"], ["--time", "3m"], ["b.txt"], ["--data.document_mask"], ["--out", "x"]]),
        ("convert", [["a"], ["--merge"], ["b"]]),
        ("serve", [["a"], ["--port", "1"], ["b"]]),
        ("chat", [["a"], ["--system", "Be -- kind"]]),
        ("info", [["--json"], ["a"]]),
        ("plan", [["6x384"], ["--gpus", "2"]]),
    ],
)
def test_options_and_words_stand_in_any_order(command: str, parts: list[list[str]]) -> None:
    """Words keep their order among one another; wherever the options stand, the command reads the same."""
    told = parsed(command, *(word for part in parts for word in part))
    words = [part for part in parts if not part[0].startswith("-")]
    for order in itertools.permutations(parts):
        if [part for part in order if not part[0].startswith("-")] == words:
            again = parsed(command, *(word for part in order for word in part))
            assert _plain(again) == _plain(told), order


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Recipe options as a set: a name alone may have been written with its value."""
    rest = " ".join(found["rest"]).replace("=true", "").replace("=", " ").replace(" --", "\n--")
    return {**found, "rest": sorted(rest.splitlines())}


def test_an_option_that_takes_one_text_leaves_the_prompt_alone(capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed("generate", "M", "--choice", "yes", "--choice", "no", "Is it?")
    assert (found["choice"], found["prompt"]) == (["yes", "no"], "Is it?")
    found = parsed("generate", "M", "--choice", "yes", "Is it?")
    assert (found["choice"], found["prompt"]) == (["yes"], "Is it?")
    assert capsys.readouterr().err == ""
    found = parsed("generate", "M", "Is it?", "--choice", "yes", "no", "--seed", "1")
    assert (found["choice"], found["prompt"]) == (["yes", "no"], "Is it?")
    assert "--choice … --choice …" in capsys.readouterr().err
    assert main(["generate", "M", "--choice", "yes", "no", "Is it?"]) == 2
    assert "--choice takes one text and is repeated" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["-", "--json", "-5", "- a list", "a=b"])
def test_what_looks_like_an_option_is_a_value_behind_an_equals_sign_and_a_word_behind_two_dashes(
    text: str,
) -> None:
    found = parsed("generate", "M", f"--stop={text}", "--seed", "-5", "--", text)
    assert (found["stop"], found["seed"], found["prompt"]) == ([text], -5, text)


def test_a_switch_of_a_recipe_takes_no_word_that_is_not_its_value() -> None:
    assert parsed("pretrain", "--data.document_mask", "a.txt")["source"] == ["a.txt"]
    assert parsed("pretrain", "--data.document_mask", "false", "a.txt")["rest"] == [
        "--data.document_mask",
        "false",
    ]
    assert parsed("pretrain", "--data.field", "title", "a.txt")["source"] == ["a.txt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["genrate", "M"], "did you mean generate?"),
        (["pretrian", "a.txt"], "did you mean pretrain?"),
        (["generate", "M", "--temprature", "1"], "did you mean --temperature?"),
        (["generate", "M", "--max_tokens", "1"], "did you mean --max-tokens?"),
        (["serve", "M", "--prot", "1"], "did you mean --port?"),
        (["pretrain", "a.txt", "--learning_rate", "1"], "did you mean --optimizer.learning_rate?"),
        (["finetune", "M", "a.csv", "--rank", "8"], "did you mean --lora.rank?"),
        (["finetune", "M", "a.csv", "--task", "clasify", "--out", "x"], "did you mean classify?"),
        (["generate", "M", "--s", "1"], "could be --samples, --seed"),
        (["generate", "M", "Once", "upon"], "a text with spaces wants quotes"),
        (["generate", "M", "--seed"], "--seed: expected one argument"),
        (["generate", "M", "--seed", "--json"], "--seed: expected one argument"),
        (["--json", "generate", "M"], "newleaf generate --json"),
    ],
)
def test_what_does_not_exist_is_named_on_one_line_with_the_nearest_that_does(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_misspelt_option_of_every_command_finds_itself_again(command: str) -> None:
    """One letter too many in the middle of any option's name."""
    for flag in [
        flag for flag in COMMANDS[command]._option_string_actions if flag.startswith("--") and len(flag) > 6
    ]:
        with pytest.raises(Exception, match=f"did you mean {flag}\\?"):
            parse([command, flag[:5] + "q" + flag[5:]])


def test_bare_newleaf_greets_with_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("newleaf demo", "newleaf pretrain", "newleaf generate", "newleaf --help"):
        assert command in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["", "x"], "the command's name is empty"),
        (["info", ""], "MODEL: it is empty"),
        (["generate", "", "Once"], "MODEL: it is empty"),
        (["pretrain", "", "--out", "x"], "SOURCE: it is empty"),
        (["pretrain", "a.txt", "--out", ""], "--out: its value is empty"),
        (["pretrain", "--resume", ""], "--resume: its value is empty"),
        (["pretrain", "a.txt", "--steps", "1", "--data.validation", "", "--out", "x"], "empty"),
        (["finetune", "M", "", "--task", "text", "--out", "x"], "DATA: it is empty"),
        (["classify", "M", "--file", ""], "--file: its value is empty"),
        (["evaluate", "M", ""], "TASK_OR_FILE: it is empty"),
        (["evaluate", "M", "a.txt", "--against="], "--against: its value is empty"),
        (["serve", ""], "it is empty"),
        (["convert", "a", ""], "it is empty"),
        (["runs", ""], "DIR: it is empty"),
        (["plan", ""], "SIZE: it is empty"),
        (["plan", "--fit", ""], "empty"),
        (["demo", "--out="], "--out: its value is empty"),
    ],
)
def test_an_empty_name_is_told_and_not_taken_for_this_folder(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a text " * 100)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_text_may_be_empty() -> None:
    assert parse(["generate", "M", ""]).prompt == ""
    assert parse(["generate", "M", "a", "--negative-prompt="]).negative_prompt == ""
