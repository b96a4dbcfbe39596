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

from newleaf.data.stdlib_corpus import standard_library_files

NAME, HELD_OUT = "newleaf:stdlib-chat", "newleaf:stdlib-chat:held-out"
MAX_ANSWER_CHARS = 1200  # characters of an answer
MIN_DOCSTRING_CHARS = 20
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
FOLLOW_UP_CALL = ("And how do I call it?", "Which arguments does it take?")
FOLLOW_UP_CODE = ("Show me its code.", "How is it implemented?")


@dataclass(frozen=True)
class DocumentedObject:
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
        module = _module_name(path.relative_to(root))
        if any(part.startswith("_") for part in module.split(".")):
            continue
        for found in documented_objects(path.read_text("utf-8"), module):
            if found.name not in seen:
                seen.add(found.name)
                yield {"messages": conversation(found), "about": found.name}


def documented_objects(source: str, module: str) -> Iterator[DocumentedObject]:
    """What has a docstring in this source, names that begin with an underscore left out."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates and test inputs that are no programs
        return
    yield from _walk_definitions(tree, module, source)


def conversation(about: DocumentedObject) -> list[dict[str, str]]:
    """Questions and answers."""
    choose = _NameSeededChoice(about.name)
    steps: list[tuple[tuple[str, ...], tuple[str, ...], str]] = [(ASK_PURPOSE, ASK_PURPOSE, about.doc)]
    if about.call:
        steps.append((ASK_CALL, FOLLOW_UP_CALL, _code_block(about.call)))
    if about.code:
        steps.append((ASK_CODE, FOLLOW_UP_CODE, _code_block(about.code)))
    first = choose.number(len(steps))
    last = first + 1 + choose.number(len(steps) - first)
    messages = []
    for number in range(first, last):
        alone, follow_up, answer = steps[number]
        asked = choose.one(alone if number == first else follow_up).format(name=about.name)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages


class _NameSeededChoice:
    """Numbers that follow from a name."""

    def __init__(self, name: str) -> None:
        self._rest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")

    def number(self, below: int) -> int:
        self._rest, found = divmod(self._rest, below)
        return found

    def one(self, options: tuple[str, ...]) -> str:
        return options[self.number(len(options))]


def _walk_definitions(node: ast.AST, name: str, source: str) -> Iterator[DocumentedObject]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        doc = _first_paragraphs(ast.get_docstring(node) or "")
        if len(doc) >= MIN_DOCSTRING_CHARS:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield (
                DocumentedObject(name, doc, _signature(node, name), _source_code(node, source))
                if is_function
                else DocumentedObject(name, doc)
            )
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(
                child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and not child.name.startswith("_"):
                yield from _walk_definitions(child, f"{name}.{child.name}", source)


def _first_paragraphs(doc: str) -> str:
    """The first paragraph, and those after it while all stay short."""
    kept = ""
    for paragraph in doc.split("\n\n"):
        longer = f"{kept}\n\n{paragraph.rstrip()}".strip("\n")
        if kept and len(longer) > MAX_ANSWER_CHARS // 2:
            break
        kept = longer
    return kept if len(kept) <= MAX_ANSWER_CHARS else ""


def _signature(node: Any, name: str) -> str:
    arguments = ast.unparse(node.args)
    first = next(iter(node.args.posonlyargs + node.args.args), None)
    if first is not None and first.arg in ("self", "cls") and first.annotation is None:
        arguments = arguments.removeprefix(first.arg).removeprefix(", /").removeprefix(", ")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{name}({arguments}){returns}"


def _source_code(node: Any, source: str) -> str:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    code = textwrap.dedent("\n".join(source.splitlines()[start - 1 : node.end_lineno]))
    return code if len(code) <= MAX_ANSWER_CHARS and "```" not in code else ""


def _code_block(code: str) -> str:
    return f"```python\n{code}\n```"


def _module_name(path: Path) -> str:
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
