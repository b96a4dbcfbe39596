"""Every option of writing, on a model that PyTorch runs and on two that compiled kernels run: Model, stream,
chat, and the command."""

from __future__ import annotations

import json
from typing import Any

import torch

import newleaf
from tools.same_outputs.digest import digest, kept
from tools.same_outputs.models import make_model
from tools.same_outputs.workplace import Workplace

PROMPT = "Wrap a single paragraph of text, returning"
REPEATED = "one two three four, one two three four, one two three four, one two"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
}
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a paragraph?"}]
OPTIONS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.6},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.2},
    "typical_p": {"typical_p": 0.5},
    "all of these": {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "frequency_penalty": {"frequency_penalty": 1.5, "temperature": 0},
    "presence_penalty": {"presence_penalty": 1.2, "temperature": 0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "temperature": 0},
    "logit_bias": {"logit_bias": {70: 6.0, 71: -4.0}},
    "banned_tokens": {"banned_tokens": tuple(range(60, 200))},
    "forced_tokens": {"forced_tokens": {0: 80, 3: 81}},
    "stop": {"stop": ["e", "zzz"]},
    "stop_ids": {"stop_ids": tuple(range(200, 260))},
    "min_tokens": {"min_tokens": 12, "stop_ids": tuple(range(200, 400))},
    "json_schema": {"json_schema": SCHEMA, "max_tokens": 60},
    "json_object": {"json_object": True, "max_tokens": 40},
    "regex": {"regex": "[a-f]{3,9}-[0-9]{2}"},
    "grammar": {"grammar": 'start: ("ab" | "cd")+ "."'},
    "choice": {"choice": ("wrapped", "filled", "indented")},
    "n": {"n": 3},
    "best_of": {"n": 2, "best_of": 4},
    "beams": {"beams": 3, "n": 2},
    "beams, length_penalty": {"beams": 4, "length_penalty": 0.4, "no_repeat_ngram_size": 3},
    "guidance": {"guidance_scale": 1.7},
    "guidance, negative_prompt": {"guidance_scale": 1.7, "negative_prompt": "Indent", "temperature": 0},
    "echo": {"echo": True},
}


def outputs(work: Workplace) -> dict[str, Any]:
    small = work.once("models/gpt2-small", lambda path: make_model(path, "gpt2"))
    large = work.once(
        "models/qwen3-large-bf16", lambda path: make_model(path, "qwen3", "large", torch.bfloat16)
    )
    openings = {"small": (small, None), "large, bf16": (large, None), "large, int8": (large, "int8")}
    found = {}
    for name, (folder, weights) in openings.items():
        model = newleaf.load(folder, weights=weights, threads=work.threads)
        found[name] = {"options": {option: written(model, values) for option, values in OPTIONS.items()}}
        found[name] |= {"speculation": speculated(model), "stream": streamed(model), "chat": chatted(model)}
        found[name]["many draws"] = many_draws(model)
        found[name]["draft"] = model.generate(
            REPEATED, temperature=0, max_tokens=24, draft=newleaf.load(small, threads=work.threads)
        )
    return found | {"command": by_command(work, {"small": small, "large": large})}


def written(model: newleaf.Model, options: dict[str, Any]) -> list[str]:
    """Beam search takes no seed's numbers; everything else does."""
    given = {"max_tokens": 20, "n": 1, "seed": 21} | options
    texts = model.generate(PROMPT, **given)
    return [texts] if isinstance(texts, str) else list(texts)


def many_draws(model: newleaf.Model) -> list[str]:
    """Thousands of draws, whose probabilities may be rounded otherwise without changing a few of them."""
    shapes: tuple[dict[str, Any], ...] = (
        {"temperature": 1.2},
        {"top_p": 0.97},
        {"typical_p": 0.97, "min_p": 0.001},
    )
    return [
        digest(text)
        for shape in shapes
        for text in model.generate(PROMPT, seed=71, n=32, max_tokens=32, **shape)
    ]


def speculated(model: newleaf.Model) -> dict[str, list[str]]:
    """Speculation changes no text; each way of writing stands here for both settings."""
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0},
        "drawn": {"seed": 31},
        "n": {"seed": 32, "n": 2},
    }
    ways["penalty"] = {"seed": 33, "repetition_penalty": 1.2}
    return {
        f"{name}, {setting}": written_from(model, REPEATED, speculation=setting, max_tokens=30, **options)
        for name, options in ways.items()
        for setting in ("auto", "off")
    }


def written_from(model: newleaf.Model, prompt: str, **options: Any) -> list[str]:
    found = model.generate(prompt, **options)
    return [found] if isinstance(found, str) else list(found)


def streamed(model: newleaf.Model) -> dict[str, list[str]]:
    """Piece by piece; how pieces are cut is part of it."""
    return {
        "drawn": list(model.stream(PROMPT, seed=41, max_tokens=24, speculation="off")),
        "stop": list(model.stream(PROMPT, seed=42, max_tokens=24, stop=["ing", "in "], speculation="off")),
        "greedy": list(model.stream(PROMPT, temperature=0, max_tokens=24, speculation="off")),
    }


def chatted(model: newleaf.Model) -> dict[str, Any]:
    further = [
        *TALK,
        {"role": "assistant", "content": "A block of text."},
        {"role": "user", "content": "And a line?"},
    ]
    return {
        "greedy": model.chat(TALK, temperature=0, max_tokens=24),
        "drawn": model.chat(TALK, seed=51, max_tokens=24),
        "second turn": model.chat(further, seed=52, max_tokens=24),
        "json_schema": model.chat(TALK, seed=53, max_tokens=60, json_schema=SCHEMA),
    }


def by_command(work: Workplace, models: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities of what is written and of the prompt, and a file of prompts, by `newleaf
    generate`."""
    found = {}
    for name, folder in models.items():
        prompts, out = work.place(f"commands/{name}.txt"), work.place(f"commands/{name}.jsonl")
        prompts.write_text("\n".join([PROMPT, REPEATED, "def", "A", "Text is wrapped"]) + "\n", "utf-8")
        common = ("--threads", work.threads, "--seed", 61, "--max-tokens", 16, "--speculation", "off")
        scored = work.json(
            "generate", folder, PROMPT, *common, "--logprobs", 2, "--prompt-logprobs", 1, "--json", "--n", 2
        )
        work.command("generate", folder, "--prompts", prompts, "--out", out, "--batch", 3, *common)
        lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        found[name] = {"log-probabilities": kept(scored), "file of prompts": kept(lines)}
    return found
