"""A panic of a native library is the one line that newleaf says, and nothing of its own beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.panics import filter_panic_messages
from newleaf.storage.model_folder import save_folder
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.untrusted import native_errors_as_input_errors


def searching_without_end() -> tokenizers.Tokenizer:
    """Cuts text by an expression that the library gives up on, by a panic."""
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    return backend


@pytest.mark.parametrize("backtrace", [None, "1", "full"])
def test_a_command_whose_tokenizer_panics_says_one_line(backtrace: str | None, tmp_path: Path) -> None:
    config = GPTConfig(300, 32, 1, 1, 32)
    save_folder(
        tmp_path / "m", config, GPT(config).state_dict(), train_tokenizer(["a"], TokenizerConfig(), 257)
    )
    searching_without_end().save(str(tmp_path / "m" / "tokenizer.json"))
    environment = {name: value for name, value in os.environ.items() if name != "RUST_BACKTRACE"}
    environment |= {"RUST_BACKTRACE": backtrace} if backtrace else {}
    command = [sys.executable, "-m", "newleaf", "generate", str(tmp_path / "m"), "a" * 40 + "b"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert found.returncode == 2
    assert "panicked" not in found.stderr
    (line,) = found.stderr.strip().splitlines()
    assert "the tokenizer cannot encode this text (Onig" in line


def test_what_others_write_meanwhile_is_passed_on_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    def panic() -> None:
        with native_errors_as_input_errors("it panics"):
            os.write(2, b"before\n")
            with native_errors_as_input_errors("inside"):
                os.write(2, b"inside\n")
            searching_without_end().encode("a" * 40 + "b")

    with pytest.raises(InputError, match="it panics"):
        panic()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\ninside\nafter\n"


def test_standard_error_is_the_same_file_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.fstat(2)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), filter_panic_messages():
            raise KeyboardInterrupt
    assert os.path.samestat(os.fstat(2), before)


def test_without_standard_error_nothing_is_taken_aside() -> None:
    code = (
        "import os; os.close(2)\nfrom newleaf.panics import filter_panic_messages\nwith "
        "filter_panic_messages(): print('done')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stdout) == (0, "done\n")
