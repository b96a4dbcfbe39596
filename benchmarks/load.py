"""How fast models open and in how much memory: `python -m benchmarks.load [--shape gpt-neox-20b | --model
FILE.gguf]`.

The folders hold random weights of the real shapes, written here and removed again; `--model` opens one that
is there. Each opening is a process of its own. Before it the file is read whole into memory, timed, so that
reading and opening both find it in the system's cache. Stored weights are mapped, not copied, so their pages
are read when the first token asks for them: hence the seconds of the first tokens beside the opening's.
Memory is what the process has for itself at its most, beside it everything resident, with pages of files that
the system can take back, and the proportional set size: of Python with its libraries before opening, until
the model is open, and until the first tokens are written. Where llama-cpp-python is installed, llama.cpp
opens a GGUF file too, mapped and read; the last column is what `newleaf info` says of the same two peaks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from newleaf.families import family_for, size
from newleaf.families.weights import to_hugging_face
from newleaf.storage.build_network import empty_network
from newleaf.storage.model_info import model_info

SHARD = 2_000_000_000  # bytes
Contender = tuple[str, str]  # a program, and how it opens the model
Found = dict[str, Any]  # what benchmarks.load_one prints
KINDS = ("own", "all", "share")
MEMORY = "memory: own / all resident / proportional set size"


def write_folder(folder: Path, name: str) -> int:
    """A model folder of this size with random bf16 weights, in shards; returns the bytes of its weights."""
    config = size(name)
    family = family_for(config)
    assert family is not None
    torch.manual_seed(0)
    noise = torch.randn(1 << 26).mul_(0.02).bfloat16()  # every tensor is a piece of this, again and again
    with torch.device("meta"):
        shapes = {
            key: tensor.shape
            for key, tensor in to_hugging_face(
                family.rules(config), empty_network(config).state_dict()
            ).items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    values = family.write_config(config) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(values))
    words = {"[UNK]": 0, "a": 1, "b": 2, "c": 3}
    Tokenizer(WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    shards: list[dict[str, torch.Size]] = [{}]
    for key, shape in shapes.items():
        if sum(other.numel() for other in shards[-1].values()) * 2 > SHARD:
            shards.append({})
        shards[-1][key] = shape
    total, places = 0, {}
    for number, shard in enumerate(shards, 1):
        file = (
            f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        )
        tensors = {}
        for key, shape in shard.items():
            repeats = -(-shape.numel() // len(noise))
            tensors[key] = noise.repeat(repeats)[: shape.numel()].view(shape)
            places[key] = file
        save_file(tensors, folder / file)
        total += (folder / file).stat().st_size
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def read_files(model: Path) -> float:
    """Seconds to read a model's weights, a file at a time."""
    begin = time.perf_counter()
    for file in sorted(model.glob("*.safetensors")) if model.is_dir() else [model]:
        file.read_bytes()
    return time.perf_counter() - begin


def contenders(model: Path, kinds: list[str]) -> list[Contender]:
    """Who opens the model, and how; llama.cpp where it is installed and the model is a file that it takes."""
    found = [("newleaf", kind) for kind in kinds]
    if model.suffix != ".gguf":
        return found
    if importlib.util.find_spec("llama_cpp") is None:
        print("llama.cpp is left out: llama-cpp-python is not installed")
        return found
    return [*found, ("llama.cpp", "mapped"), ("llama.cpp", "read")]


def measure(
    model: Path, who: list[Contender], repeats: int, tokens: int
) -> tuple[float, dict[Contender, list[Found]]]:
    """Median seconds to read the files, and what each opening found."""
    reads: list[float] = []
    found: dict[Contender, list[Found]] = {each: [] for each in who}
    for _ in range(repeats):
        for program, how in who:
            reads.append(read_files(model))
            command = [sys.executable, "-m", "benchmarks.load_one", program, str(model), how, str(tokens)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[program, how].append(json.loads(out.splitlines()[-1]))
    return statistics.median(reads), found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", default="gpt2-124m", help="a published size, as newleaf plan knows it (default: gpt2-124m)"
    )
    parser.add_argument("--model", type=Path, help="a folder or GGUF file to open instead")
    parser.add_argument(
        "--weights", nargs="+", default=["as stored", "fp32", "bf16", "int8", "int4"], help="how to open it"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8, help="tokens written after opening")
    parser.add_argument(
        "--dir", type=Path, help="where to write the folder (default: the system's temporary directory)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as home:
        model = args.model or Path(home) / args.shape
        if args.model is None:
            write_folder(model, args.shape)
        total = sum(
            file.stat().st_size for file in (model.glob("*.safetensors") if model.is_dir() else [model])
        )
        reading, found = measure(model, contenders(model, args.weights), args.repeats, args.tokens)
        said = model_info(model)
    title = (
        f"{model.name}: {total / 1e9:.2f} GB, read in {reading:.2f} s; medians of {args.repeats}; "
        f"torch {torch.__version__}"
    )
    memory = "before, MB", "to open, MB", f"to write {args.tokens} tokens, MB", "info says, MB"
    table = Table(
        "program",
        "weights",
        "opens in s",
        "× reading",
        f"{args.tokens} tokens, s",
        *memory,
        title=f"{title}; {MEMORY}",
    )
    for (program, how), runs in found.items():
        peaks = [
            " / ".join(f"{_median(runs, when, name) / 1e6:.0f}" for name in KINDS)
            for when in ("before", "at_open", "at_last")
        ]
        seconds = _median(runs, "open"), _median(runs, "write")
        named = "stored" if how == "as stored" else how
        told = (
            [said[name].get(named) for name in ("memory_to_open", "memory_of_first_request")]
            if program == "newleaf"
            else []
        )
        peaks.append(" / ".join(f"{size / 1e6:.0f}" for size in told if size is not None))
        table.add_row(
            program, how, f"{seconds[0]:.2f}", f"{seconds[0] / reading:.2f}", f"{seconds[1]:.2f}", *peaks
        )
    Console(width=180).print(table)


def _median(runs: list[Found], *names: str) -> float:
    return statistics.median(reduce(getitem, names, run) for run in runs)


if __name__ == "__main__":
    main()
