"""A process of its own that renders chat templates: JSON lines in, JSON lines out.

Templates are programs of strangers, so what limits them is the operating system (see template_sandbox.py).
This is run as a file and imports nothing of newleaf, so that it starts at once.

The environment is the one that stock transformers gives templates: Jinja's immutable sandbox, blocks trimmed,
`break` and `continue`, `{% generation %}`, `raise_exception`, `strftime_now`, and a `tojson` that leaves
HTML's characters alone.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import signal
import sys
import traceback
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_LIMIT = 1 << 30  # bytes of address space
MAX_CHARS = 1 << 24  # of the text, and of the line that brings the request


class RefusedError(TemplateError):
    """The template itself says that it does not take these messages."""


class Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}` stands around what the assistant says; it changes nothing in
    the text.

    `spans` are where such text stood in the last rendering, whose `parts` so far tell how long it is, as
    stock transformers counts.
    """

    tags = {"generation"}  # noqa: RUF012

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.parts: list[str] = []
        self.spans: list[tuple[int, int]] = []

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> str:
        text = str(caller())
        start = sum(map(len, self.parts))
        self.spans.append((start, start + len(text)))
        return text


def raise_exception(message: str) -> None:
    raise RefusedError(message)


def strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@functools.lru_cache(maxsize=8)
def compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(source)


def render(request: dict[str, Any]) -> dict[str, Any]:
    """{"text", "spans"}, or {"problem", "message"} and where known the "line"."""
    try:
        template, size = compiled(request["source"]), 0
        marks: Any = template.environment.extensions[Generation.identifier]
        parts: list[str] = []
        marks.parts, marks.spans = parts, []
        for part in template.generate(request["variables"]):
            parts.append(part)
            size += len(part)
            if size > MAX_CHARS:
                return {"problem": "size", "message": f"more than {MAX_CHARS:,} characters"}
        return {"text": "".join(parts), "spans": marks.spans}
    except RefusedError as error:
        return {"problem": "refused", "message": error.message}
    except TemplateSyntaxError as error:
        return {"problem": "syntax", "message": error.message, "line": error.lineno}
    except MemoryError:
        return {"problem": "memory", "message": f"more than {MEMORY_LIMIT >> 20:,} MB"}
    except Exception as error:  # whatever an expression of the template can raise
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == "<template>"
        ]
        message = error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        return {"problem": "failed", "message": str(message)[:1000], "line": lines[-1] if lines else None}


def main() -> None:
    # Ctrl-C is for the program, which ends this one by closing its input
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # not on Windows; not where a lower limit holds already
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    alarm = getattr(signal, "alarm", lambda seconds: None)
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        alarm(int(request["seconds"]) + 2)  # should the program be gone that would have ended this one
        reply = render(request)
        alarm(0)
        try:
            text = json.dumps(reply)
        except MemoryError:
            text = json.dumps({"problem": "memory", "message": f"more than {MEMORY_LIMIT >> 20:,} MB"})
        print(text, flush=True)


if __name__ == "__main__":
    main()
