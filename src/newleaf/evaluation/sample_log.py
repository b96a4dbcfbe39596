"""Every prompt and answer of a task as JSON lines: a record for people, and what an interrupted evaluation
goes on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from newleaf.evaluation.task import Item, Marks
from newleaf.storage.atomic_write import write_text

VERSION = 1  # of what a mark means


@dataclass(frozen=True)
class Sample:
    """An item's answer and its marks; `refused` says why there is none."""

    answer: Any
    marks: Marks
    refused: str | None = None


class SampleLog:
    """One task's answers of one model under one setting, in `path` (None: kept nowhere). Lines of another
    model or setting are dropped."""

    def __init__(self, path: Path | None, about: Any) -> None:
        self.path, self._about = path, json.dumps([VERSION, about], sort_keys=True, default=str)
        self._known: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None
        if path is not None and path.exists():
            for line in path.read_text("utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a run that was killed

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def find(self, item: Item) -> Sample | None:
        """What this item was answered before, if it was."""
        entry = self._known.get(self._key(item))
        return (
            Sample(entry["answer"], entry["marks"]) if entry is not None and "refused" not in entry else None
        )

    def add(self, item: Item, found: Sample) -> None:
        """Note an answer; it is on the disk when this returns, as far as a killed process is concerned."""
        if self.path is None:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._known.values())
            self.path.write_text(kept, "utf-8")  # an interrupted last line goes
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(self._line(item, found))
        self._file.flush()

    def finish(self, items: list[Item], found: list[Sample]) -> None:
        """Write all items in their order, and nothing else; the file is replaced whole."""
        if self.path is not None:
            if self._file is not None:
                self._file.close()
                self._file = None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(
                self.path, "".join(self._line(item, each) for item, each in zip(items, found, strict=True))
            )

    def _key(self, item: Item) -> str:
        asked = asdict(item.ask) if not isinstance(item.ask, str) else item.ask
        text = json.dumps(
            [self._about, item.where.rpartition(":")[2], asked, item.gold],
            sort_keys=True,
            default=str,
            ensure_ascii=False,
        )
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def _line(self, item: Item, found: Sample) -> str:
        entry: dict[str, Any] = {"key": self._key(item), "where": item.where}
        if item.group:
            entry["group"] = item.group
        entry |= (
            {"prompt": item.ask}
            if isinstance(item.ask, str)
            else {"prompt": item.ask.context, "choices": item.ask.continuations}
        )
        entry |= {"gold": item.gold, "answer": _plain(found.answer), "marks": found.marks}
        entry |= {"refused": found.refused} if found.refused is not None else {}
        return json.dumps(entry, ensure_ascii=False, default=str) + "\n"


def _plain(answer: Any) -> Any:
    """Scores as [log-likelihood, likeliest, tokens]; texts as they are."""
    if not isinstance(answer, list):
        return answer
    return [
        list(asdict(each).values()) if is_dataclass(each) and not isinstance(each, type) else each
        for each in answer
    ]
