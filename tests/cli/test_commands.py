"""The command as people type it: in a process of its own, with what it prints and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from newleaf.cli.main import main

SMALL = [
    "--tokenizer.vocab_size",
    "300",
    "--model.n_layer",
    "1",
    "--model.n_embd",
    "64",
    "--model.n_head",
    "2",
    "--model.head_dim",
    "32",
    "--model.n_inner",
    "64",
    "--model.context_length",
    "64",
    "--train.batch_size",
    "8",
]


def newleaf(
    *words: str | Path, cwd: Path | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "newleaf", *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )


def in_process(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """The same without a process of its own, which takes two seconds to import PyTorch: exit code, output,
    errors."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "book"
    done = newleaf("pretrain", book, "--steps", "20", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "bits per byte of held-out text (lower is better), after 20 steps" in done.stdout
    assert f"newleaf generate {out}" in done.stdout
    return out


def test_generate_writes_the_prompt_and_goes_on(run: Path) -> None:
    options = ["--max-tokens", "20", "--temperature", "0.8", "--top-k", "50", "--seed", "1"]
    first, second = (newleaf("generate", run, "def main(", *options) for _ in range(2))
    assert first.stdout.startswith("def main(")
    assert len(first.stdout) > len("def main(\n")
    assert first.stdout == second.stdout


def test_generate_prints_several_samples_and_json(run: Path) -> None:
    found = json.loads(newleaf("generate", run, "a", "--samples", "3", "--max-tokens", "8", "--json").stdout)
    assert found["prompt"] == "a"
    assert len(found["samples"]) == 3
    assert {"text", "end"} == set(found["samples"][0])


def test_generate_takes_every_option_by_its_name_in_python(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each flag changes what comes out, or is seen in it: none is taken and ignored."""
    (tmp_path / "schema.json").write_text('{"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}')
    (tmp_path / "grammar.lark").write_text('start: "x" ("y" | "z")')

    def samples(*words: str | Path) -> list[dict[str, object]]:
        code, said, errors = in_process(
            capsys, "generate", run, "def main(", "--json", "--seed", "1", "--max-tokens", "12", *words
        )
        assert code == 0, errors
        return json.loads(said)["samples"]

    assert isinstance(json.loads(str(samples("--json-schema", tmp_path / "schema.json")[0]["text"])), list)
    assert samples("--grammar", tmp_path / "grammar.lark")[0]["text"] in ("xy", "xz")
    assert (
        samples("--choice", "left", "--choice", "right")[0] == {"text": "left", "end": "end"}
        or samples("--choice", "left", "--choice", "right")[0]["text"] == "right"
    )
    scored = samples("--logprobs", "2", "--prompt-logprobs", "1", "--n", "2")
    assert [len(row["top"]) for row in scored[1]["tokens"]] == [2] * 12  # type: ignore[attr-defined]
    assert scored[0]["prompt_tokens"][0]["logprob"] is None  # type: ignore[index]
    ranks = [row["rank"] for row in samples("--beams", "3", "--n", "2", "--length-penalty", "0.5")]
    assert ranks == sorted(ranks, reverse=True)  # type: ignore[type-var]
    plain = str(samples()[0]["text"])
    assert samples("--echo")[0]["text"] == "def main(" + plain
    first = scored[0]["tokens"][0]["id"]  # type: ignore[index]
    for words in (
        ["--ban-token", f"{first}"], ["--logit-bias", f"{first}=-100"], ["--force-token", f"0={first + 1}"],
        ["--stop-id", f"{first}"], ["--frequency-penalty", "50"], ["--presence-penalty", "50"],
        ["--typical-p", "0.02"], ["--guidance-scale", "30"],
    ):  # fmt: skip
        assert samples(*words)[0]["text"] != plain, words


def test_a_draft_changes_no_text_and_a_wrong_one_is_refused_in_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", run, "def main(", "--max-tokens", "20", "--seed", "1"]
    plain = in_process(capsys, *words)
    assert in_process(capsys, *words, "--draft", run)[:2] == plain[:2]
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    for name, draft in (("plain", []), ("drafted", ["--draft", run, "--draft-weights", "bf16"])):
        options = [
            "--prompts",
            tmp_path / "in.txt",
            "--out",
            tmp_path / name,
            "--max-tokens",
            "9",
            "--seed",
            "1",
            *draft,
        ]
        assert in_process(capsys, "generate", run, *options)[0] == 0
    assert (tmp_path / "plain").read_text() == (tmp_path / "drafted").read_text()
    for more, said in (
        (["--draft", tmp_path / "nothing"], "nothing"),
        (["--draft-weights", "int4"], "--draft-weights: goes with --draft MODEL"),
        (["--draft", run, "--beams", "2"], "draft: cannot be combined with beams"),
        (["--draft", run, "--speculation", "off"], "draft: speculation=off takes no proposals"),
    ):
        code, _, errors = in_process(capsys, *words, *more)
        assert (code, errors.count("\n")) == (2, 1)
        assert said in errors


def test_generate_writes_a_file_of_prompts(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    words = [
        "generate",
        run,
        "--prompts",
        tmp_path / "in.txt",
        "--out",
        tmp_path / "out.jsonl",
        "--max-tokens",
        "4",
    ]
    assert "2 prompts written" in newleaf(*words).stdout
    assert [json.loads(line)["prompt"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "one",
        "two",
    ]
    assert "has all of them already" in newleaf(*words).stdout


def test_generate_reads_a_prompt_from_standard_input(run: Path) -> None:
    assert newleaf("generate", run, "-", "--max-tokens", "3", stdin="日本 text").stdout.startswith(
        "日本 text"
    )


def test_info_says_what_a_run_is(run: Path) -> None:
    found = json.loads(newleaf("info", run, "--json").stdout)
    assert found["family"] == "qwen3"
    assert found["state"] == "finished"
    assert found["parameters"] > 0
    assert "stock transformers, as Qwen3ForCausalLM" in newleaf("info", run).stdout


def test_ctrl_c_stops_cleanly_and_resume_goes_on(book: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "newleaf",
        "pretrain",
        str(book),
        "--steps",
        "400",
        "--out",
        str(tmp_path / "r"),
        *SMALL,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and '"step": 5,' in metrics.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "(stopped early)" in out
    stopped = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert 5 <= stopped["steps"] < 400
    assert newleaf("generate", tmp_path / "r", "a", "--max-tokens", "3").returncode == 0
    resumed = newleaf("pretrain", "--resume", tmp_path / "r")
    assert resumed.returncode == 0, resumed.stderr
    finished = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert finished["steps"] == 400
    assert finished["resumed_from_step"] == stopped["steps"]


def test_bad_input_is_one_line_and_exit_code_2(
    book: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "empty.txt": b"", "binary.txt": b"abc\x00def", "unknown.txt": b"caf\x81 \x8d " * 50,
        "short.txt": b"hello", "broken.jsonl": b'{"text": "a"}\n{"text": \n',
        "lacks.jsonl": b'{"text": "a"}\n{"body": "b"}\n',
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "bad.yaml").write_text("train: [")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text(
        '{"model_type": "bert", "architectures": ["BertModel"]}'
    )
    new = ["--out", tmp_path / "new", "--steps", "2"]
    cases: list[tuple[list[str | Path], str]] = [
        (["pretrain", tmp_path / "missing.txt", *new], "missing.txt"),
        (["pretrain", tmp_path / "empty.txt", *new], "empty.txt"),
        (["pretrain", tmp_path / "binary.txt", *new], "byte 3"),
        (["pretrain", tmp_path / "unknown.txt", *new], "byte 3; name its encoding with --data.encoding"),
        (["pretrain", tmp_path / "short.txt", *new, *SMALL], "short.txt|few|short"),
        (["pretrain", tmp_path / "broken.jsonl", *new], "broken.jsonl:2"),
        (["pretrain", tmp_path / "lacks.jsonl", *new], "lacks.jsonl:2"),
        (["pretrain", book], "--out is missing"),
        (["pretrain", *new], "no source"),
        (["pretrain", book, "--out", run, "--steps", "2"], "--resume"),
        (["pretrain", book, *new, "--data.val_fractoin", "0.1"], "did you mean data.val_fraction"),
        (
            ["pretrain", book, *new, "--model.n_head", "5", "--model.n_embd", "64"],
            "model.n_head: 5 heads do not divide",
        ),
        (["pretrain", book, *new, "--bogus"], "--bogus"),
        (["pretrain", book, "--out", tmp_path / "new", "--time", "soon"], "not a duration"),
        (["pretrain", book, *new, "--config", tmp_path / "bad.yaml"], "bad.yaml"),
        (
            ["pretrain", book, *new, "--tokenizer.path", "nobody/nothing-of-this-name"],
            "nobody/nothing-of-this-name",
        ),
        (["pretrain", "--resume", tmp_path / "foreign"], "holds no run"),
        (["pretrain", "--resume", run, book], "does not go with --resume"),
        (["generate", tmp_path / "nowhere"], "nowhere"),
        (["generate", tmp_path / "foreign"], "BertModel"),
        (["generate", run, "a", "--top-p", "0"], "top_p"),
        (["generate", run, "a", "--temperature", "-1"], "temperature"),
        (["generate", run, "a", "--regex", "(a"], "regex, character 1"),
        (["generate", run, "a", "--json-schema", tmp_path / "nowhere.json"], "nowhere.json"),
        (["generate", run, "a", "--json-schema", tmp_path / "broken.jsonl"], "json_schema, line 2"),
        (["generate", run, "a", "--logit-bias", "5"], "--logit-bias"),
        (["generate", run, "a", "--stop-id", "100000"], "stop_ids"),
        (["generate", run, "a", "--beams", "2", "--top-k", "3"], "top_k"),
        (["generate", run, "long " * 400], "truncate"),
        (["generate", run, "a", "--out", tmp_path / "x.jsonl"], "--prompts"),
        (
            ["generate", run, "--prompts", tmp_path / "nowhere.txt", "--out", tmp_path / "x.jsonl"],
            "nowhere.txt",
        ),
        (["info", tmp_path / "nowhere"], "nowhere"),
        (["dance"], "dance"),
    ]
    for words, named in cases:
        code, said, errors = in_process(capsys, *words)
        assert code == 2, (words, errors, said)
        lines = [line for line in errors.splitlines() if line.startswith("newleaf: ")]
        assert len(lines) == 1, (words, errors)
        assert any(part in lines[0] for part in named.split("|")), (words, lines)
    done = newleaf(*cases[0][0])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_skipping_counts_what_was_left_out(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row number {n} says {n * n}"}) for n in range(400)]
    rows[7] = "{broken"
    rows[9] = '{"body": 1}'
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    done = newleaf(
        "pretrain",
        tmp_path / "rows.jsonl",
        "--steps",
        "2",
        "--out",
        tmp_path / "r",
        "--data.on_error",
        "skip",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    assert "Left out: " in done.stderr


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small file system needs root on Linux"
)
def test_a_disk_too_small_for_the_run_is_one_line_and_leaves_nothing_behind(
    book: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("cannot mount here")
    try:
        done = newleaf("pretrain", book, "--steps", "3", "--out", disk / "r", *SMALL)
        assert done.returncode == 2
        assert "the disk has 307 kB left, and a checkpoint takes " in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=False)


def test_help_and_import_are_quick() -> None:
    """The figures are in benchmarks/start.py; here only that nothing heavy is imported."""
    heavy = "torch|transformers|tokenizers|matplotlib|rich|numpy"
    for code in (
        "import newleaf",
        "from newleaf.cli.main import build_parser; build_parser()[0].format_help()",
    ):
        check = f"import sys; {code}; print([m for m in {heavy.split('|')} if m in sys.modules])"
        assert (
            subprocess.run(
                [sys.executable, "-c", check], capture_output=True, text=True, check=True
            ).stdout.strip()
            == "[]"
        )


def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    done = newleaf("demo", "--time", "20s", "--out", tmp_path / "demo", *SMALL)
    assert done.returncode == 0, done.stderr
    for promised in (
        "before training",
        "after",
        "this model, held-out files",
        "xz -9e, the same files alone",
        "having seen the training",
        "ast.parse",
        "Try next",
    ):
        assert promised in done.stdout, promised
    assert done.stdout.count("\n  newleaf ") == 3


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(24, "Too many open files"),
    ],
)
def test_what_the_machine_does_not_have_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("newleaf.cli.info.run", fail)
    assert main(["info", "somewhere"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_letters_that_the_terminal_has_not_are_shown_as_others(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-c",
        "import sys; from newleaf.cli.main import _open_streams; _open_streams(); print('h\\u00e9llo "
        "\\u2603')",
    ]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"h?llo ?"
