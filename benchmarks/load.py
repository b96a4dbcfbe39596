"""How fast models open and in how much memory: `python -m benchmarks.load [--shape gpt-neox-20b | --model FILE.gguf]`.

The folders hold random weights of the real shapes, written here and removed again; `--model` opens one that is there. Each
opening is a process of its own. Before it the file is read whole into memory, timed, so that reading and opening both find it
in the system's cache. Stored weights are mapped, not copied, so their pages are read when the first token asks for them: hence
the seconds of the first tokens beside the opening's. Memory is what the process has for itself at its most, and beside it
everything resident, with pages of files that the system can take back: of Python with its libraries before opening, until the
model is open, and until the first tokens are written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from newleaf.families import family_for, size
from newleaf.families.weights import to_hugging_face
from newleaf.storage.assemble import blank

SHARD = 2_000_000_000  # bytes

OPEN = """
import json, sys, threading, time
import torch, newleaf
import newleaf.api, newleaf.families, newleaf.storage.folder
own = everything = 0
done = False
def look():
    global own, everything
    lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss") or line.startswith("VmRSS"))
    kilobytes = {name: int(value.split()[0]) for name, value in lines.items()}
    own, everything = max(own, kilobytes["RssAnon"]), max(everything, kilobytes["VmRSS"])
    return own * 1024, everything * 1024
def watch():
    while not done:
        look()
        time.sleep(0.01)
before = look()
threading.Thread(target=watch, daemon=True).start()
begin = time.perf_counter()
model = newleaf.load(sys.argv[1], weights=None if sys.argv[2] == "as stored" else sys.argv[2])
opened = time.perf_counter() - begin
at_open = look()
begin = time.perf_counter()
model.generate("a b c", max_tokens=int(sys.argv[3]), temperature=0)
written = time.perf_counter() - begin
done = True
at_last = look()
found = {"open": opened, "write": written}
for name, (own_then, all_then) in {"before": before, "at_open": at_open, "at_last": at_last}.items():
    found |= {"own_" + name: own_then, "all_" + name: all_then}
print(json.dumps(found))
"""


def write_folder(folder: Path, name: str) -> int:
    """A model folder of this size with random bf16 weights, in shards; returns the bytes of its weights."""
    config = size(name)
    family = family_for(config)
    assert family is not None
    torch.manual_seed(0)
    noise = torch.randn(1 << 26).mul_(0.02).bfloat16()  # every tensor is a piece of this, again and again
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in to_hugging_face(family.rules(config), blank(config).state_dict()).items()}
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
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
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


def measure(model: Path, kinds: list[str], repeats: int, tokens: int) -> tuple[float, dict[str, list[dict[str, float]]]]:
    """Median seconds to read the files, and what each opening found."""
    reads: list[float] = []
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            reads.append(read_files(model))
            command = [sys.executable, "-c", OPEN, str(model), kind, str(tokens)]
            found[kind].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return statistics.median(reads), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2-124m", help="a published size, as newleaf plan knows it (default: gpt2-124m)")
    parser.add_argument("--model", type=Path, help="a folder or GGUF file to open instead")
    parser.add_argument("--weights", nargs="+", default=["as stored", "fp32", "int8", "int4"], help="how to open it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8, help="tokens written after opening")
    parser.add_argument("--dir", type=Path, help="where to write the folder (default: the system's temporary directory)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as home:
        model = args.model or Path(home) / args.shape
        if args.model is None:
            write_folder(model, args.shape)
        total = sum(file.stat().st_size for file in (model.glob("*.safetensors") if model.is_dir() else [model]))
        reading, found = measure(model, args.weights, args.repeats, args.tokens)
    title = f"{model.name}: {total / 1e9:.2f} GB, read in {reading:.2f} s; medians of {args.repeats}; torch {torch.__version__}"
    memory = "own / all before, MB", "to open, MB", f"to write {args.tokens} tokens, MB"
    table = Table("weights", "opens in s", "× reading", f"{args.tokens} tokens, s", *memory, title=title)
    for kind, runs in found.items():
        one = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        peaks = (f"{one['own_' + when] / 1e6:.0f} / {one['all_' + when] / 1e6:.0f}" for when in ("before", "at_open", "at_last"))
        table.add_row(kind, f"{one['open']:.2f}", f"{one['open'] / reading:.2f}", f"{one['write']:.2f}", *peaks)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
