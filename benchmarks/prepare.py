"""How long a large text takes from file to tokens, and how much memory: `python -m benchmarks.prepare
[megabytes]`."""

import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

WORD = re.compile(r"[a-z]{4,}")


def write_text(path: Path, n_bytes: int) -> None:
    """The standard library's source over and over, one word in each line changed, so that no two rounds are
    alike."""
    from newleaf.data.stdlib_corpus import standard_library_files

    train, _ = standard_library_files()
    lines = [
        line for source in train for line in source.read_text(encoding="utf-8").splitlines(keepends=True)
    ]
    vary = random.Random(0)
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        while written < n_bytes:
            for line in lines:
                changed = WORD.sub(lambda word: word[0] + str(vary.randrange(100)), line, count=1)
                written += file.write(changed)
                if written >= n_bytes:
                    break


def child(source: str, cache: str) -> None:
    """The work to measure, in a process of its own; prints the seconds of each stage."""
    import torch  # noqa: F401 (a real run has it in memory)

    from newleaf.data.corpus import prepare_text
    from newleaf.data.data_config import DataConfig
    from newleaf.data.token_shards import tokenize
    from newleaf.text.train_tokenizer import MOST_SEEN, TokenizerConfig, train_tokenizer

    def show(stage: str, done: int, total: int | None) -> None:
        print(f"\r{stage} {done / 2**20:,.0f} of {(total or 0) / 2**20:,.0f} MB", end="", file=sys.stderr)

    clock = [time.perf_counter()]
    corpus = prepare_text(source, DataConfig(), Path(cache), show)
    clock.append(time.perf_counter())
    config = TokenizerConfig(vocab_size=8192)
    tokenizer = train_tokenizer(corpus.train.sample(config.train_bytes or MOST_SEEN), config)
    clock.append(time.perf_counter())
    shards = [tokenize(text, tokenizer, Path(cache), show) for text in (corpus.train, corpus.validation)]
    clock.append(time.perf_counter())
    prepare_text(source, DataConfig(), Path(cache))
    again = [tokenize(text, tokenizer, Path(cache)) for text in (corpus.train, corpus.validation)]
    clock.append(time.perf_counter())
    assert [shard.n_tokens for shard in shards] == [shard.n_tokens for shard in again]
    print(json.dumps({"clock": clock, "tokens": sum(shard.n_tokens for shard in shards)}))


def peak_of(process: psutil.Process, peak: list[int]) -> None:
    """Resident memory ten times a second: the one measure that every system has."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            peak[0] = max(peak[0], process.memory_info().rss)
        except psutil.NoSuchProcess:
            return
        time.sleep(0.1)


def main(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.txt"
        write_text(source, megabytes * 10**6)
        command = [
            sys.executable,
            "-m",
            "benchmarks.prepare",
            "--child",
            str(source),
            str(Path(folder) / "cache"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak = [0]
        watcher = threading.Thread(target=peak_of, args=(psutil.Process(process.pid), peak))
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
        result = json.loads(output.splitlines()[-1])
    clock = result["clock"]
    print(f"\n{megabytes} MB of text, {result['tokens']:,} tokens, peak memory {peak[0] / 10**9:.2f} GB\n")
    print("| stage | seconds | MB/s |\n|---|---|---|")
    for name, start, end in zip(
        ("read, store, split", "train tokenizer (8192)", "tokenize", "all again, from cache"),
        clock,
        clock[1:],
        strict=False,
    ):
        print(f"| {name} | {end - start:.1f} | {megabytes / (end - start):,.1f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
