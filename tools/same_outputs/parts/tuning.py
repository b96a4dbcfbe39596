"""After-training: labels, conversations, preferences, a teacher, text; all weights and adapters; what the
results say."""

from __future__ import annotations

import json
from typing import Any

import newleaf
from tools.same_outputs.digest import digest, folder_digest, kept
from tools.same_outputs.models import make_model
from tools.same_outputs.runs import run_record
from tools.same_outputs.texts import conversations, preferences, reviews, write_book, write_rows
from tools.same_outputs.workplace import Workplace

COMMON: dict[str, Any] = {"steps": 8, "seed": 5, "quiet": True}
TRAIN: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 4, "eval_every": 4, "precision": "fp32"}
RATE: dict[str, Any] = {"learning_rate": 2e-3}


def outputs(work: Workplace) -> dict[str, Any]:
    base = work.once("models/qwen3-small", lambda path: make_model(path, "qwen3"))
    teacher = work.once("models/llama-small", lambda path: make_model(path, "llama"))
    rows = {
        "reviews.jsonl": reviews(), "talks.jsonl": conversations(), "pairs.jsonl": preferences(),
    }  # fmt: skip
    data = {
        name: work.once(name, lambda path, each=each: write_rows(path, each)) for name, each in rows.items()
    }
    book = work.once("part.txt", lambda path: write_book(path, 12_000))
    talks, pairs = data["talks.jsonl"], data["pairs.jsonl"]
    runs: dict[str, tuple[Any, dict[str, Any]]] = {
        "classify": (data["reviews.jsonl"], {"task": "classify", "label": {"baselines": False}}),
        "chat": (talks, {"task": "chat", "chat": {"length": 64}}),
        "chat, bf16": (
            talks,
            {"task": "chat", "chat": {"length": 64}, "train": TRAIN | {"precision": "bf16"}, "optimizer": {}},
        ),
        "chat, LoRA": (talks, {"task": "chat", "chat": {"length": 64}, "lora": {"rank": 4}}),
        "text, DoRA over 4 bits": (
            book,
            {"task": "text", "lora": {"rank": 4, "dora": True, "weights": "int4"}},
        ),
        "preference": (pairs, {"task": "preference"}),
        "distil": (talks, {"task": "distil", "distil": {"teacher": str(teacher)}}),
    }
    found = {name: tuned(work, name, base, source, options) for name, (source, options) in runs.items()}
    return found | {"classifier": labelled(work), "adapter": adapted(work, base)}


def tuned(work: Workplace, name: str, base: Any, source: Any, options: dict[str, Any]) -> dict[str, Any]:
    """One run's record. An adapter's run has adapter/ in the place of model/."""
    out = work.place(f"tuning/{name}")
    given: dict[str, Any] = COMMON | {"train": TRAIN, "optimizer": RATE, "threads": work.threads} | options
    newleaf.finetune(base, source, out=out, **given)
    return run_record(out, "adapter" if "lora" in options else "model")


def labelled(work: Workplace) -> dict[str, Any]:
    """What the tuned classifier answers, as an open model, by the command, and evaluated."""
    run, rows = work.folder / "tuning/classify", work.folder / "reviews.jsonl"
    texts = [row["text"] for row in reviews(8)]
    model = newleaf.load(run, threads=work.threads)
    asking = ("classify", run, *texts, "--threads", work.threads, "--json")
    return {
        "answers": model.classify(texts),
        "probabilities": [json.loads(line) for line in work.command(*asking).splitlines()],
        "evaluated": kept(newleaf.evaluate(model, [str(rows)], quiet=True)),
    }


def adapted(work: Workplace, base: Any) -> dict[str, Any]:
    """The adapter over its base, and merged into it as a folder and as a GGUF file."""
    adapter = work.folder / "tuning/chat, LoRA"
    folder, file = work.place("tuning/merged"), work.place("tuning/merged.gguf")
    work.command("convert", adapter, folder, "--merge")
    model = newleaf.load(base, adapter=adapter, threads=work.threads)
    model.save(file)
    text = model.chat([{"role": "user", "content": "say two"}], temperature=0, max_tokens=12)
    return {"merged": folder_digest(folder), "file": digest(file.read_bytes()), "answer": text}
