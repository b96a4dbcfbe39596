"""What choosing a token costs beside computing it: plain sampling, penalties, constraints. `python -m
benchmarks.constraints MODEL`"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import newleaf
from newleaf.generate.backend.executor import TokenChunk
from newleaf.generate.backend.lazy_lowering import open_executor
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.sampler import SamplerRow, sample_tokens
from newleaf.generate.text.text_state import one_thread

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": {},
    "top_k 50": {"top_k": 50},
    "top_p 0.9": {"top_p": 0.9},
    "typical_p 0.9": {"typical_p": 0.9},
    "all penalties": {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "no_repeat_ngram_size": 4},
    "json_schema, greedy": {"json_schema": SCHEMA, "temperature": 0},
    "json_object, greedy": {"json_object": True, "temperature": 0},
    "regex, greedy": {"regex": r"([A-Z][a-z]+ ){20,}", "temperature": 0},
}
TOKENS = 100


def micros(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return 1e6 * (time.perf_counter() - begun), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights")
    args = parser.parse_args()
    model = newleaf.load(args.model, weights=args.weights)
    tokenizer, grammars = model.tokenizer, GrammarCompiler(model.tokenizer)
    prompt = tokenizer.encode("Answer with a JSON object that describes a person: ")
    ends = frozenset({tokenizer.eos_id} - {None})
    slots, steps, lines = open_executor(model.network, 1, None, lower_at_once=True), [], []
    for name, options in CASES.items():
        config = SamplingConfig(max_tokens=TOKENS, **options)
        set_up, constraint = micros(lambda config=config: grammars.compile(config))
        row = SamplerRow(config, list(prompt), len(prompt), 1, 0, ends, constraint)
        times, logits = [], slots.run([TokenChunk(0, 0, row.ids, 1)])
        for _ in range(TOKENS):
            with one_thread():
                spent, (token,) = micros(
                    lambda logits=logits, row=row: sample_tokens(logits[:, : tokenizer.vocab_size], [row])
                )
            more, _ = micros(lambda token=token, row=row: row.take(token))
            times.append(spent + more)
            if token in ends or (row.constraint is not None and row.constraint.complete):
                break
            step, logits = micros(
                lambda token=token, row=row: slots.run([TokenChunk(0, len(row.ids) - 1, [token], 1)])
            )
            steps.append(step)
        slots.release(0)
        lines.append((name, times, set_up))
    step = median(steps)
    print(
        f"one step of the network itself: {step / 1000:.2f} ms ({torch.get_num_threads()} threads, "
        f"{model.network.dtype})"
    )
    for name, times, set_up in lines:
        mean = sum(times) / len(times)
        print(
            f"{name:<22} median {median(times):7.0f} µs  mean {mean:7.0f} µs  worst {max(times):7.0f} µs"
            f"  mean share {100 * mean / step:5.1f} %  set up {set_up / 1000:7.1f} ms  {len(times)} tokens"
        )


if __name__ == "__main__":
    main()
