"""What `newleaf info` says of the memory that opening takes, beside what the system counts in a process that
does it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny_shapes import LLAMA

from newleaf.api import Model
from newleaf.cli.main import main
from newleaf.model import GPT, GPTConfig
from newleaf.storage.model_info import model_info
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

OPEN = """
import sys
import newleaf
def most():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
model = newleaf.load(sys.argv[1], weights=None if sys.argv[2] == "stored" else sys.argv[2])
opened = most()
model.generate("a", max_tokens=2, temperature=0)
print(opened, most())
"""
SHAPE = GPTConfig(
    vocab_size=20_000,
    context_length=512,
    n_layer=6,
    n_head=8,
    n_embd=1024,
    n_inner=4096,
    **LLAMA,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 120 million random weights as a folder and as a GGUF file, both in halves, with a
    tokenizer of its size."""
    home = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = Model(
        GPT(SHAPE).bfloat16(),
        train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 300),
        "llama",
    )
    model.save(home / "folder")
    model.save(home / "model.gguf", "Q8_0")
    return home


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and was measured on Linux")
@pytest.mark.parametrize(
    ("name", "weights"),
    [("model.gguf", "stored"), ("model.gguf", "int4"), ("folder", "stored"), ("folder", "int8")],
)
def test_what_info_says_is_what_the_system_counts(name: str, weights: str, models: Path) -> None:
    """Within 15 %."""
    command = [sys.executable, "-c", OPEN, str(models / name), weights]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout.split()
    said = model_info(models / name)
    assert said["memory_to_open"][weights] == pytest.approx(int(found[0]), rel=0.15)
    assert said["memory_of_first_request"][weights] == pytest.approx(int(found[1]), rel=0.15)


def test_larger_networks_take_more_and_only_those_with_kernels_count_them(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("folder", "model.gguf"):
        said = model_info(models / name)
        opened, asked = said["memory_to_open"], said["memory_of_first_request"]
        assert list(opened) == list(asked) == ["stored", "fp32", "bf16", "int8", "int4"]
        assert opened["fp32"] > opened["bf16"]
        assert all(asked[kind] >= opened[kind] for kind in opened)
        assert main(["info", str(models / name)]) == 0
        assert "memory to open" in capsys.readouterr().out
