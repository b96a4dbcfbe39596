"""Texts and rows to learn from and to be asked about, from what every Python has."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = {
    "one": "eins",
    "two": "zwei",
    "three": "drei",
    "four": "vier",
    "five": "fünf",
    "six": "sechs",
    "seven": "sieben",
    "eight": "acht",
}
GOOD, BAD = (
    ("a fine story", "great and warm", "we loved it", "bright"),
    ("a dull story", "cold and poor", "we hated it", "grey"),
)


def write_book(path: Path, characters: int = 60_000) -> None:
    path.write_text(Path(argparse.__file__).read_text("utf-8")[:characters], "utf-8")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def reviews(count: int = 40) -> list[dict[str, Any]]:
    """Texts that their words tell apart."""
    return [
        {"text": f"{(GOOD, BAD)[n % 2][n // 2 % 4]}, {n // 8}", "label": ("good", "bad")[n % 2]}
        for n in range(count)
    ]


def conversations(count: int = 32) -> list[dict[str, Any]]:
    """Words to translate, one to three in each conversation."""
    words, rows = list(WORDS), []
    for number in range(count):
        asked = [words[(number * 3 + turn) % len(words)] for turn in range(1 + number % 3)]
        pairs = [
            ({"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": WORDS[word]})
            for word in asked
        ]
        rows.append({"messages": [message for pair in pairs for message in pair]})
    return rows


def preferences(count: int = 24) -> list[dict[str, Any]]:
    """The right translation and a wrong one."""
    words = list(WORDS)
    pairs = [(words[n % len(words)], words[(n + 1 + n // 8) % len(words)]) for n in range(count)]
    return [
        {"prompt": f"say {word}", "chosen": WORDS[word], "rejected": f"{WORDS[other]}!"}
        for word, other in pairs
    ]


def questions(count: int = 12) -> list[dict[str, Any]]:
    """Prompts with references."""
    words = list(WORDS)
    return [
        {"prompt": f"say {words[n % len(words)]}:", "references": [WORDS[words[n % len(words)]]]}
        for n in range(count)
    ]


def endings(count: int = 12) -> list[dict[str, Any]]:
    """Rows in the form of HellaSwag."""
    texts = [*GOOD, *BAD]
    return [
        {"activity_label": "Films", "ctx_a": f"On day {n} they said", "ctx_b": "it was", "label": n % 4,
         "endings": [texts[(n + k) % len(texts)] for k in range(4)]}
        for n in range(count)
    ]  # fmt: skip
