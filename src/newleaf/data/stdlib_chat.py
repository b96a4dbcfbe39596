"""Conversations that every machine has: about Python's standard library, answered from its own docstrings,
signatures and code."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.data.stdlib import standard_library_files

NAME, HELD_OUT = "newleaf:stdlib-chat", "newleaf:stdlib-chat:held-out"
MOST_CODE = 1200  # characters of an answer
SHORTEST_DOC = 20
ASK_PURPOSE = (
    "What does `{name}` do?",
    "What is `{name}` for?",
    "Explain `{name}`.",
    "Tell me about `{name}` in Python.",
)
ASK_CALL = (
    "How do I call `{name}`?",
    "Which arguments does `{name}` take?",
    "Show me the signature of `{name}`.",
)
ASK_CODE = ("Show me the code of `{name}`.", "How is `{name}` implemented?", "Write `{name}` in Python.")
ASK_ON_CALL = ("And how do I call it?", "Which arguments does it take?")
ASK_ON_CODE = ("Show me its code.", "How is it implemented?")


@dataclass(frozen=True)
class Documented:
    """Something with a docstring. `call` and `code` are empty for what is no function."""

    name: str
    doc: str
    call: str = ""
    code: str = ""


def stdlib_chat(held_out: bool = False) -> Iterator[dict[str, Any]]:
    """{"messages", "about"} for each documented module, class and function of the files that the demo trains
    on, or of those it holds out.

    A conversation has one to three questions; which, and in what words, follows from the name alone.
    """
    root, seen = Path(sysconfig.get_paths()["stdlib"]), set()
    for path in standard_library_files()[held_out]:
        module = _module(path.relative_to(root))
        if any(part.startswith("_") for part in module.split(".")):
            continue
        for found in documented(path.read_text("utf-8"), module):
            if found.name not in seen:
                seen.add(found.name)
                yield {"messages": conversation(found), "about": found.name}


def documented(source: str, module: str) -> Iterator[Documented]:
    """What has a docstring in this source, names that begin with an underscore left out."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates and test inputs that are no programs
        return
    yield from _of(tree, module, source)


def conversation(about: Documented) -> list[dict[str, str]]:
    """Questions and answers."""
    choose = _Choice(about.name)
    steps: list[tuple[tuple[str, ...], tuple[str, ...], str]] = [(ASK_PURPOSE, ASK_PURPOSE, about.doc)]
    if about.call:
        steps.append((ASK_CALL, ASK_ON_CALL, _fenced(about.call)))
    if about.code:
        steps.append((ASK_CODE, ASK_ON_CODE, _fenced(about.code)))
    first = choose.number(len(steps))
    last = first + 1 + choose.number(len(steps) - first)
    messages = []
    for number in range(first, last):
        alone, going_on, answer = steps[number]
        asked = choose.one(alone if number == first else going_on).format(name=about.name)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages


class _Choice:
    """Numbers that follow from a name."""

    def __init__(self, name: str) -> None:
        self._rest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")

    def number(self, below: int) -> int:
        self._rest, found = divmod(self._rest, below)
        return found

    def one(self, options: tuple[str, ...]) -> str:
        return options[self.number(len(options))]


def _of(node: ast.AST, name: str, source: str) -> Iterator[Documented]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        doc = _first_paragraphs(ast.get_docstring(node) or "")
        if len(doc) >= SHORTEST_DOC:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield (
                Documented(name, doc, _call(node, name), _code(node, source))
                if is_function
                else Documented(name, doc)
            )
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(
                child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and not child.name.startswith("_"):
                yield from _of(child, f"{name}.{child.name}", source)


def _first_paragraphs(doc: str) -> str:
    """The first paragraph, and those after it while all stay short."""
    kept = ""
    for paragraph in doc.split("\n\n"):
        longer = f"{kept}\n\n{paragraph.rstrip()}".strip("\n")
        if kept and len(longer) > MOST_CODE // 2:
            break
        kept = longer
    return kept if len(kept) <= MOST_CODE else ""


def _call(node: Any, name: str) -> str:
    given = ast.unparse(node.args)
    first = next(iter(node.args.posonlyargs + node.args.args), None)
    if first is not None and first.arg in ("self", "cls") and first.annotation is None:
        given = given.removeprefix(first.arg).removeprefix(", /").removeprefix(", ")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{name}({given}){returns}"


def _code(node: Any, source: str) -> str:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    code = textwrap.dedent("\n".join(source.splitlines()[start - 1 : node.end_lineno]))
    return code if len(code) <= MOST_CODE and "```" not in code else ""


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _module(path: Path) -> str:
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
