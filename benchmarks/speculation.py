"""Speculative decoding: tokens per second with it and without, by newleaf and by llama-cpp-python's
prompt lookup, interleaved.

    python -m benchmarks.speculation SmolLM2-135M-Instruct.Q4_1.gguf [--kinds int8,int4,bf16] [--repeats 3]
        [--skip-llama] [--tokens 160]

One stream, real weights. Greedy texts that repeat their prompt: a function of Python's standard library again
with one name changed, a module's documentation quoted, a module gone on with. Ordinary ones, at temperature
0.8: a story, an explanation, a letter; for llama.cpp greedy, since its lookup has no draws in common with
its plain writing. Each is written by the engine behind `Model.generate` with speculation on and off, and by
llama_cpp.Llama with LlamaPromptLookupDecoding (2 proposed tokens, its documentation's advice for CPUs, and
its default of 10) and without. Time runs from the first token to the last. Then a draft model: `--draft
MODEL`, or, since no small model of the same tokenizer is at hand, a 4-bit copy of the same weights for bf16
ones (self-speculation: a draft that agrees much and costs much). First, the economics behind all this: what a
step of several rows takes, in steps of one row.
"""

from __future__ import annotations

import argparse
import colorsys
import inspect
import operator
import statistics
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from newleaf.api import Model, load
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.options import SamplingConfig
from newleaf.text.chat_template import RenderOptions

Clock = Callable[[], float]
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Prompt:
    """A text to go on with; `repeats` if it goes on with what it has."""

    name: str
    repeats: bool
    ids: list[int]


def prompts_for(model: Model) -> list[Prompt]:
    """The same ones each time, made of Python's own standard library."""
    one, other = inspect.getsource(colorsys.rgb_to_hsv), inspect.getsource(colorsys.rgb_to_hls)
    methods = inspect.getsource(operator).split("# Logical Operations")[0]
    about = " ".join((inspect.getdoc(textwrap.TextWrapper) or "").split())

    def ask(text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        return list(model.chat_template.encode(messages, RenderOptions(add_generation_prompt=True)).ids)

    def renamed(code: str) -> str:
        return code.replace("maxc", "largest")

    before_and_after = f"Before:\n{one}\nAfter:\n{renamed(one)}\nBefore:\n{other}\nAfter:\n"
    edit = (
        f"Each function again, with `maxc` renamed to "
        f"`largest`.\n\n{before_and_after}{''.join(renamed(other).splitlines(True)[:4])}"
    )
    quote = (
        f"The documentation says:\n\n{about}\n\nI repeat what it says, word for "
        f"word:\n\n{about.split('. ')[0]}."
    )
    return [
        Prompt("edit", True, model.tokenizer.encode(edit)),
        Prompt("quote", True, model.tokenizer.encode(quote)),
        Prompt("code", True, model.tokenizer.encode(methods)),
        Prompt("story", False, ask("Tell a story about a lighthouse keeper who finds a letter.")),
        Prompt("explanation", False, ask("Explain how a bicycle stays upright.")),
        Prompt(
            "letter",
            False,
            model.tokenizer.encode("Dear Sir,\n\nI am writing to you about the garden behind the old mill,"),
        ),
    ]


class Newleaf:
    """The engine, as `Model.generate` has it."""

    def __init__(self, model: Model, clock: Clock, draft: Model | None = None) -> None:
        self.engine, self.clock = model.engine(slots=1, limit=2 << 30, draft=draft), clock

    def write(self, prompt: Prompt, tokens: int, speculation: Any = "auto") -> tuple[float, list[int]]:
        """Tokens a second, and the ids."""
        config = SamplingConfig(
            max_tokens=tokens,
            min_tokens=tokens,
            temperature=0.0 if prompt.repeats else 0.8,
            seed=1,
            speculation=speculation,
        )
        request = self.engine._enqueue(prompt.ids, config, 0)
        row, begin, first = request.samples[0].row, 0.0, 0
        for _ in self.engine._run_until_done([request]):
            begin, first = begin or self.clock(), first or row.written
        return (row.written - first) / (self.clock() - begin), row.ids[row.prompt :]


class LlamaCpp:
    """llama_cpp.Llama, with prompt lookup or without."""

    def __init__(self, path: str, proposals: int, clock: Clock) -> None:
        import llama_cpp
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self.clock, draft = clock, LlamaPromptLookupDecoding(num_pred_tokens=proposals) if proposals else None
        threads = torch.get_num_threads()
        options: dict[str, Any] = {"draft_model": draft, "logits_all": draft is not None, "verbose": False}
        self.model = llama_cpp.Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, **options)

    def write(self, prompt: Prompt, tokens: int) -> tuple[float, list[int]]:
        found: list[int] = []
        begin = 0.0
        self.model.reset()
        for token in self.model.generate(prompt.ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            begin = begin or self.clock()
            found.append(token)
            if len(found) == tokens:
                break
        return (tokens - 1) / (self.clock() - begin), found


Write = Callable[[Prompt, int], tuple[float, list[int]]]


def writers_for(args: argparse.Namespace, models: dict[str, Model]) -> dict[str, Write]:
    """What is compared, by name; of each pair the first writes without speculation."""
    found: dict[str, Write] = {}
    clock = time.process_time if args.cpu_clock else time.perf_counter
    for kind, model in models.items():
        engine = Newleaf(model, clock)
        found[f"newleaf {kind}, off"] = lambda prompt, tokens, engine=engine: engine.write(
            prompt, tokens, "off"
        )  # type: ignore[misc]
        found[f"newleaf {kind}, lookup"] = engine.write
    if args.draft or {"bf16", "int4"} <= models.keys():
        kind = next(iter(models)) if args.draft else "bf16"
        draft = load(args.draft, args.draft_weights) if args.draft else models["int4"]
        found[f"newleaf {kind}, lookup and {'draft' if args.draft else 'int4 copy as draft'}"] = Newleaf(
            models[kind], clock, draft
        ).write
    if not args.skip_llama:
        for proposals in (0, 2, 10):
            found[f"llama.cpp, {f'lookup of {proposals}' if proposals else 'off'}"] = LlamaCpp(
                args.model, proposals, clock
            ).write
    return found


def economics(models: dict[str, Model], console: Console) -> None:
    """What a step of several rows takes after 300 tokens, in steps of one row."""
    table = Table(
        "weights", "one row, ms", *(f"{rows} rows" for rows in ROWS[1:]), title="a step, in steps of one row"
    )
    for kind, model in models.items():
        runner = LoweredRunner(model.network, 1, 1024)
        runner.read(0, list(range(300)))
        seconds: dict[int, list[float]] = {rows: [] for rows in ROWS}
        for _ in range(12):
            for rows in ROWS:
                begin = time.perf_counter()
                runner.step([5] * rows, list(range(300, 300 + rows)), [0] * rows)
                seconds[rows].append(time.perf_counter() - begin)
        medians = {rows: statistics.median(each) for rows, each in seconds.items()}
        table.add_row(
            kind, f"{1000 * medians[1]:.2f}", *(f"{medians[rows] / medians[1]:.2f}" for rows in ROWS[1:])
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a .gguf file, which llama.cpp opens too")
    parser.add_argument("--kinds", default="int8,int4,bf16")
    parser.add_argument("--draft", help="a small model with the same tokenizer")
    parser.add_argument("--draft-weights", default="int4")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--only", help="prompts, by name, with commas between them")
    parser.add_argument("--skip-llama", action="store_true")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="count this process's own seconds: for one thread on a busy machine",
    )
    parser.add_argument("--show", action="store_true", help="print the texts")
    args = parser.parse_args()
    console = Console(width=150)
    models = {kind: load(args.model, kind) for kind in args.kinds.split(",")}
    economics(models, console)
    some = next(iter(models.values()))
    prompts = [each for each in prompts_for(some) if args.only is None or each.name in args.only.split(",")]
    writers = writers_for(args, models)
    rates: dict[tuple[str, str], list[float]] = {
        (name, prompt.name): [] for name in writers for prompt in prompts
    }
    texts: dict[tuple[str, str], list[int]] = {}
    for repeat in range(args.repeats + 1):
        for prompt in prompts:
            for name, write in writers.items():
                time.sleep(0.05)  # until the last one's threads have stopped spinning
                rate, texts[name, prompt.name] = write(prompt, args.tokens)
                if repeat:  # the first round warms up
                    rates[name, prompt.name].append(rate)
    report(console, prompts, list(writers), rates, texts, args)
    if args.show:
        for prompt in prompts:
            console.rule(prompt.name)
            print(some.tokenizer.decode(texts[next(iter(writers)), prompt.name]))


def report(
    console: Console,
    prompts: list[Prompt],
    names: list[str],
    rates: dict[tuple[str, str], list[float]],
    texts: dict[tuple[str, str], list[int]],
    args: argparse.Namespace,
) -> None:
    what = f"{args.model.rpartition('/')[2]}: {args.tokens} tokens, tokens/s (× without speculation)"
    title = f"{what}, medians of {args.repeats} interleaved rounds; {torch.get_num_threads()} threads"
    table = Table("writer", *(f"{each.name} ({len(each.ids)})" for each in prompts), title=title)
    off, differing = "", []
    for name in names:
        off = (
            name
            if name.endswith("off")
            else next(each for each in names if each.split(",")[0] == name.split(",")[0])
        )
        cells = []
        for prompt in prompts:
            rate, before = (
                statistics.median(rates[name, prompt.name]),
                statistics.median(rates[off, prompt.name]),
            )
            cells.append(f"{rate:.1f}" + (f" ({rate / before:.2f} ×)" if name != off else ""))
            if texts[name, prompt.name] != texts[off, prompt.name]:
                differing.append(f"{name}: {prompt.name}")
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"texts that speculation changed: {', '.join(differing) or 'none'}")


if __name__ == "__main__":
    main()
