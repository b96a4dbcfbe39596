"""Report long sentences in Markdown pages: `python -m tools.prose docs README.md`. Prints; never fails."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_WORDS = 40  # the limit above which a sentence is reported
GOAL = 25  # docs/architecture.md and its like keep most sentences under this
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|cf|vs|approx|no|fig)\.$", re.IGNORECASE)


@dataclass(frozen=True)
class Sentence:
    """One sentence of a page and the number of the line on which its paragraph starts."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """Code spans and links count as one word each, and marks without letters or digits as none."""
        text = re.sub(r"`[^`]*`", "code", self.text)
        text = re.sub(r"\]\([^)]*\)", "]", text)
        return sum(bool(re.search(r"\w", word)) for word in text.split())


def paragraphs(markdown: str) -> Iterator[tuple[int, str]]:
    """Paragraphs and list items with their first lines. Code blocks, tables and headings are left out."""
    start, lines, in_code = 0, list[str](), False
    for number, line in enumerate(markdown.splitlines(), start=1):
        if fence := line.lstrip().startswith("```"):
            in_code = not in_code
        is_prose = not (fence or in_code or line.startswith(("#", "|")) or not line.strip())
        starts_item = bool(re.match(r"\s*([-*]|\d+\.)\s", line))
        if lines and (not is_prose or starts_item):
            yield start, " ".join(lines)
            lines = []
        if is_prose:
            start = start if lines else number
            lines.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "", line).strip())
    if lines:
        yield start, " ".join(lines)


def sentences(markdown: str) -> Iterator[Sentence]:
    for line, paragraph in paragraphs(markdown):
        held = ""
        for part in re.split(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_`]*[A-Z0-9`*\[])", paragraph):
            held = f"{held} {part}".strip()
            if not ABBREVIATIONS.search(held):
                yield Sentence(line, held)
                held = ""
        if held:
            yield Sentence(line, held)


def pages(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("*.md")) if path.is_dir() else [path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="Markdown files, or folders of them")
    parser.add_argument("--limit", type=int, default=MAX_WORDS, help="report sentences with more words")
    arguments = parser.parse_args()
    for page in pages(arguments.paths):
        found = list(sentences(page.read_text("utf-8")))
        for sentence in found:
            if sentence.words > arguments.limit:
                print(f"{page}:{sentence.line}: {sentence.words} words: {sentence.text[:100]}")
        short = sum(sentence.words <= GOAL for sentence in found)
        print(f"{page}: {len(found)} sentences, {short / max(1, len(found)):.0%} of at most {GOAL} words")


if __name__ == "__main__":
    main()
