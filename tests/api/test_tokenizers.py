"""Models without a tokenizer, and tokenizers that are given: what opens, and what is said where."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chat_folders import make_chat_model

import newleaf
from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.text.tokenizer import Tokenizer

ADVICE = r"has no tokenizer, which text needs; give one with --tokenizer FOLDER \(in Python tokenizer=…\)"
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model folder, the same without its tokenizer, and the tokenizer alone."""
    place = tmp_path_factory.mktemp("models")
    full, bare, tokenizer = make_chat_model(place / "full", context=256), place / "bare", place / "tokenizer"
    shutil.copytree(full, bare)
    tokenizer.mkdir()
    for name in FILES:
        if (bare / name).exists():
            (bare / name).rename(tokenizer / name)
    return full, bare, tokenizer


def test_a_folder_without_a_tokenizer_opens_for_its_network_and_saves(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    full, bare, _ = folders
    model, ids = newleaf.load(bare), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(model.network(ids), newleaf.load(full).network(ids))
        model.save(tmp_path / "again")
        assert torch.equal(newleaf.load(tmp_path / "again").network(ids), model.network(ids))
    assert not (tmp_path / "again" / "tokenizer.json").exists()


def test_a_gguf_without_a_tokenizer_opens_for_its_network_and_takes_one(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    network, ids = GPT(GPTConfig(400, 64, 1, 2, 32)).eval(), torch.tensor([[1, 2, 3]])
    said = Model(network, None, "gpt2").save(tmp_path / "bare.gguf")
    assert said is not None
    assert "no tokenizer" in said
    model = newleaf.load(tmp_path / "bare.gguf")
    with torch.no_grad():
        torch.testing.assert_close(model.network(ids), network(ids))
    with pytest.raises(InputError, match=ADVICE):
        model.generate("a")
    given = newleaf.load(tmp_path / "bare.gguf", tokenizer=folders[2])
    assert given.generate("a", max_tokens=4, temperature=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate("a"),
        lambda model: model.stream("a"),
        lambda model: model.chat([{"role": "user", "content": "Hello"}]),
        lambda model: model.conversation(),
        lambda model: model.engine(),
        lambda model: model.tokenizer,
        lambda model: newleaf.evaluate(model, ["speed"]),
    ],
)
def test_a_model_without_a_tokenizer_says_what_to_do_when_asked_for_text(
    folders: tuple[Path, Path, Path], call
) -> None:
    with pytest.raises(InputError, match=f"bare: {ADVICE}"):
        call(newleaf.load(folders[1]))


@pytest.mark.parametrize("kind", ["folder", "file", "loaded"])
def test_a_tokenizer_that_is_given_takes_the_place_of_the_models_own(
    folders: tuple[Path, Path, Path], kind: str
) -> None:
    full, bare, place = folders
    given = {"folder": place, "file": place / "tokenizer.json", "loaded": Tokenizer.load(place)}[kind]
    wanted = newleaf.load(full).generate("Hello", max_tokens=8, temperature=0)
    assert newleaf.load(bare, tokenizer=given).generate("Hello", max_tokens=8, temperature=0) == wanted


def test_a_tokenizer_that_is_not_there_is_named(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer: .*nowhere"):
        newleaf.load(folders[1], tokenizer=tmp_path / "nowhere")


@pytest.mark.parametrize("words", [("generate",), ("chat",), ("evaluate", "speed"), ("serve",)])
def test_a_command_says_so_before_it_reads_the_weights(
    folders: tuple[Path, Path, Path], words: tuple[str, ...], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folders[1], bare)
    (bare / "model.safetensors").write_bytes(b"unreadable")
    command = [sys.executable, "-m", "newleaf", words[0], str(bare), *words[1:]]
    if words[0] == "serve":
        command += ["--port", "0"]
    found = subprocess.run(command, input="", capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert "bare: has no tokenizer, which text needs; give one with --tokenizer FOLDER" in found.stderr
    assert "Traceback" not in found.stderr


def test_generate_takes_a_tokenizer(folders: tuple[Path, Path, Path]) -> None:
    full, bare, tokenizer = folders
    command = [sys.executable, "-m", "newleaf", "generate", str(bare), "Hello", "--tokenizer", str(tokenizer)]
    found = subprocess.run(
        [*command, "--max-tokens", "8", "--temperature", "0"], capture_output=True, text=True, check=True
    )
    wanted = newleaf.load(full).generate("Hello", max_tokens=8, temperature=0)
    assert found.stdout == f"Hello{wanted}\n"


def test_convert_and_info_work_without_a_tokenizer(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for words in (["convert", str(folders[1]), str(tmp_path / "out")], ["info", str(folders[1])]):
        found = subprocess.run([sys.executable, "-m", "newleaf", *words], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
    assert "none in this folder" in found.stdout
    assert isinstance(newleaf.load(tmp_path / "out"), Model)
