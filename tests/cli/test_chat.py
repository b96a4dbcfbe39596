"""`newleaf chat` as people use it: typed into a real pseudo-terminal, and through pipes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chat_folders import make_chat_model
from fake_clocks import HANGS

from newleaf.cli.chat_terminal import hearing_ctrl_c
from newleaf.cli.main import main

pty = pytest.importorskip("pty", reason="a pseudo-terminal is for POSIX")
SHARED = Path(__file__).parents[3] / "shared" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NEVER = {"<|im_end|>": -1000.0, "<|endoftext|>": -1000.0, "<|im_start|>": -1000.0}


class Typist:
    """A process in a terminal of its own: types, and reads until something is on the screen."""

    def __init__(self, words: list[str], columns: int = 80) -> None:
        self.seen, self.read_to = "", 0
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            # a shell's background jobs ignore Ctrl-C, and so would what they start
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.environ.update(TERM="xterm", COLUMNS=str(columns), LINES="40", NO_COLOR="1")
            os.execv(sys.executable, [sys.executable, "-m", "newleaf", "chat", *words])

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def expect(self, pattern: str, seconds: float = HANGS) -> str:
        """What came up to and with the pattern."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen[self.read_to :])):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} did not come; there is {self.seen[self.read_to :]!r}"
            if select.select([self.file], [], [], left)[0]:
                try:
                    self.seen += os.read(self.file, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"it ended before {pattern!r}: {self.seen!r}") from None
        start, self.read_to = self.read_to, self.read_to + found.end()
        return self.seen[start : self.read_to]

    def wait_until_it_waits(self) -> None:
        deadline = time.monotonic() + HANGS
        while psutil.Process(self.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < deadline, "it never waits for a key"
            time.sleep(0.01)

    def press_until(self, key: str, pattern: str) -> str:
        """Press a key, again where it was lost, until the pattern comes."""
        for left in reversed(range(10)):
            self.wait_until_it_waits()
            self.type(key)
            try:
                return self.expect(pattern, HANGS / 10)
            except AssertionError:
                if not left:
                    raise
        raise AssertionError

    def say(self, text: str, until: str = r"[1-9]\d* tokens?[^\]]*\]") -> str:
        """Type a line at the prompt and return what came of it."""
        self.expect(r"> $" if self.read_to == 0 else r"> ")
        self.type(text + "\r")
        return self.expect(until)

    def ended(self) -> int:
        deadline = time.monotonic() + HANGS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.file], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.file, 65536).decode("utf-8", "replace")
                except OSError:
                    continue
        raise AssertionError("it did not end")

    def close(self) -> None:
        os.close(self.file)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that never end a turn."""
    return make_chat_model(tmp_path_factory.mktemp("chat") / "talker", bias=NEVER)


@pytest.fixture
def typist(talker: Path) -> Iterator[Typist]:
    found = Typist([str(talker), "--max-tokens", "6", "--seed", "1"])
    yield found
    found.close()


def saved(path: Path) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = json.loads(path.read_text("utf-8"))["messages"]
    return messages


def test_a_talk_with_every_command(typist: Typist, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    assert "6 tokens" in typist.say("Hello")
    assert "system message set" in typist.say("/system Be brief.", r"\]")
    typist.say("Second")
    typist.say(f"/save {file}", r"5 messages in\s+[^\]]*\]")
    first = saved(file)
    assert [message["role"] for message in first] == ["system", "user", "assistant", "user", "assistant"]
    assert [first[0]["content"], first[1]["content"], first[3]["content"]] == ["Be brief.", "Hello", "Second"]
    typist.say("/retry")
    typist.say(f"/save {file}", r"5 messages in\s+[^\]]*\]")
    second = saved(file)
    assert second[:4] == first[:4]
    assert second[4] != first[4]
    assert "taken back: Second" in typist.say("/undo", r"\]")
    typist.say(f"/save {file}", r"3 messages in\s+[^\]]*\]")
    assert saved(file) == first[:3]
    assert "a new conversation" in typist.say("/reset", r"\]")
    assert "nothing to take back" in typist.say("/undo", r"\]")
    assert "3 messages from" in typist.say(f"/load {file}", r"\]")
    assert "taken back: Hello" in typist.say("/undo", r"\]")
    typist.say("/set max_tokens 3", r"\]")
    assert "3 tokens" in typist.say("More")
    assert "max_tokens 3, temperature 0.7, min_p 0.05, seed 1" in typist.say("/set", r"\]")
    typist.expect("> ")
    typist.type("/exit\r")
    assert typist.ended() == 0


def test_what_cannot_be_is_said_in_a_line_and_the_talk_goes_on(typist: Typist, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[1]")
    for line, said in (
        ("/dance", "/dance: no such command"),
        ("/set temprature 1", "did you mean temperature"),
        ("/set temperature -1", "temperature: must be at least 0"),
        ("/load /nowhere/at.all", "no such file"),
        (f"/load {tmp_path / 'other.json'}", "no saved conversation"),
        (f"/save {tmp_path / 'other.json'}", "no saved conversation"),
        ("/retry", "no message to answer again"),
    ):
        assert said in typist.say(line, r"\]").replace("\r\n", " "), line
    assert (tmp_path / "other.json").read_text() == "[1]"
    assert "6 tokens" in typist.say("Hello")


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(talker: Path, tmp_path: Path) -> None:
    typist = Typist([str(talker), "--max-tokens", "4000", "--seed", "1"])
    try:
        typist.expect("> ")
        typist.type("Hello\r")
        typist.expect(r"Hello\r\n[\s\S]{20}")  # it streams
        typist.type("\x03")
        typist.expect(r"\[stopped\]")
        typist.say(f"/save {tmp_path / 'cut.json'}", r"2 messages in\s+[^\]]*\]")
        assert 0 < len(saved(tmp_path / "cut.json")[1]["content"]) < 8000
        typist.expect("> ")
        typist.type("half a line")
        typist.expect("half a line")
        # Python loses a Ctrl-C between one key and the wait for the next
        typist.press_until("\x03", r"Ctrl-D leaves\.\]")
        typist.say("/set max_tokens 4", r"\]")
        assert "4 tokens" in typist.say("again")
        typist.expect("> ")
        typist.type("\x04")
        assert typist.ended() == 0
        assert "Traceback" not in typist.seen
    finally:
        typist.close()


def test_a_message_may_have_several_lines_and_begin_with_a_slash(typist: Typist, tmp_path: Path) -> None:
    typist.expect("> ")
    typist.type("one\\\rtwo\r")
    typist.expect(r"tokens/s")
    typist.expect("> ")
    typist.type('"""three\rfour\r\r/five"""\r')
    typist.expect(r"tokens/s")
    typist.say("//six")
    typist.say(f"/save {tmp_path / 't.json'}", r"6 messages in\s+[^\]]*\]")
    said = [message["content"] for message in saved(tmp_path / "t.json") if message["role"] == "user"]
    assert said == ["one\ntwo", "three\nfour\n\n/five", "/six"]


def test_the_arrow_brings_back_what_was_typed_and_the_history_is_kept(
    talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("readline")
    monkeypatch.setenv("NEWLEAF_CACHE", str(tmp_path))
    for line in ("Bonjour\r", "\x1b[A\r"):
        typist = Typist([str(talker), "--max-tokens", "4", "--seed", "1"])
        typist.expect("> ")
        typist.type(line)
        assert "Bonjour" in typist.expect("tokens/s")
        typist.expect("> ")
        typist.type("\x04")
        assert typist.ended() == 0
        typist.close()
    assert (tmp_path / "chat_history").stat().st_mode & 0o077 == 0


def test_a_full_context_forgets_the_oldest_turns_and_says_so(tmp_path: Path) -> None:
    model = make_chat_model(tmp_path / "small", context=256, bias=NEVER)
    typist = Typist([str(model), "--max-tokens", "20", "--seed", "1", "--system", "Be brief."])
    try:
        seen = ""
        for number in range(6):
            seen += typist.say(f"This is message number {number}, of some length.")
        said = " ".join(seen.split())
        assert re.search(
            r"the context of 256 tokens is full: the model no longer sees the oldest \d+ messages", said
        )
        typist.expect("> ")
        typist.type("x" * 300 + "\r")
        assert "shorten it" in typist.expect(r"\]").replace("\r\n", " ")
    finally:
        typist.close()


def test_lines_and_help_fit_a_narrow_terminal(talker: Path) -> None:
    typist = Typist([str(talker)], columns=40)
    try:
        shown = typist.say("/help", "stops an\\s+answer")
        assert max(len(line) for line in shown.splitlines() if line.isascii() and "newleaf" not in line) <= 40
    finally:
        typist.close()


def piped(*words: str | Path, stdin: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "newleaf", "chat", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_a_pipe_gets_an_answer_for_each_line_and_no_commands(talker: Path, tmp_path: Path) -> None:
    done = piped(
        talker, "--max-tokens", "5", "--seed", "1", "--json", stdin=f"Hello\n\n/save {tmp_path / 'x'}\n"
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["role"], row["tokens"], row["end"]) for row in rows] == [("assistant", 5, "length")] * 2
    assert not (tmp_path / "x").exists()
    plain = piped(talker, "--max-tokens", "5", "--seed", "1", stdin="Hello\n")
    assert plain.stdout == rows[0]["content"] + "\n"


@pytest.mark.skipif(os.name == "nt", reason="sh closes the streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", [["chat"], ["generate", "Hello", "--max-tokens", "2"], ["classify", "-"]])
def test_streams_that_the_caller_closed_read_and_write_nothing(
    talker: Path, words: list[str], closed: str
) -> None:
    command = [sys.executable, "-m", "newleaf", words[0], str(talker), *words[1:]]
    text = f"{shlex.join(command)} {closed}"
    done = subprocess.run(
        ["sh", "-c", text], input="", capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "newleaf:" not in done.stdout


def test_a_chat_is_sampled_as_the_model_says_and_otherwise_with_a_cutoff(
    talker: Path, tmp_path: Path
) -> None:
    def answer(folder: Path, *words: str) -> str:
        done = piped(folder, "--max-tokens", "40", "--seed", "1", *words, stdin="Hello\n")
        assert done.returncode == 0, done.stderr
        return done.stdout

    plain = answer(talker)
    assert plain == answer(talker, "--temperature", "0.7", "--min-p", "0.05")
    assert plain != answer(talker, "--temperature", "1", "--min-p", "0")
    told = Path(shutil.copytree(talker, tmp_path / "told"))
    (told / "generation_config.json").write_text(
        '{"temperature": 1.5, "top_k": 3, "top_p": 7, "do_sample": true}', "utf-8"
    )
    # a top_p of 7 cannot be
    assert answer(told) == answer(talker, "--temperature", "1.5", "--top-k", "3", "--min-p", "0")
    assert answer(told, "--temperature", "0") == answer(talker, "--temperature", "0")


def test_bad_input_is_one_line(
    talker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_chat_model(tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "broken.jinja").write_text("a\n{% if %}")
    (tmp_path / "good.jinja").write_text("{% for m in messages %}{{ m.content }}{{ mood }}{% endfor %}")
    for words, said in (
        ([base], "no chat template"),
        ([base, "--template", tmp_path / "broken.jinja"], "not valid, line 2"),
        ([base, "--template", tmp_path / "none.jinja"], "none.jinja: no such file"),
        ([talker, "--template-variable", "x"], "not NAME=VALUE"),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
        assert main(["chat", *map(str, words)]) == 2, words
        errors = capsys.readouterr().err
        assert said in errors
        assert len(errors.splitlines()) == 1, errors
    good = ["--template", tmp_path / "good.jinja", "--template-variable", "mood=glad", "--max-tokens", "2"]
    assert piped(base, *good, stdin="Hello\n").returncode == 0


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared model beside the checkout")
def test_smollm2_knows_the_capital_of_france() -> None:
    # In fp32: its first two choices are 0.1 apart, less than what 8-bit inputs of packed matrices shift.
    done = piped(
        SHARED,
        "--weights",
        "fp32",
        "--temperature",
        "0",
        "--max-tokens",
        "30",
        stdin="What is the capital of France?\n",
    )
    assert "Paris" in done.stdout, done.stderr


def test_ctrl_c_is_noted_even_where_the_exception_is_dropped() -> None:
    """As Python does with one that comes while an object is being taken down."""
    before = signal.getsignal(signal.SIGINT)
    with hearing_ctrl_c() as pressed:
        assert not pressed
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert pressed == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is before
