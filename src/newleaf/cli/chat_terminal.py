"""A conversation in a terminal: messages and commands in, answers out as they are written."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.cli.answer_speed import Timed
from newleaf.cli.line_input import read_message, remembered_lines
from newleaf.data.corpus_cache import default_cache_directory
from newleaf.errors import InputError
from newleaf.generate.chat.answering import answer_config
from newleaf.storage.atomic_write import write_json
from newleaf.text.terminal_text import printable

if TYPE_CHECKING:
    from newleaf.api import Model
    from newleaf.generate.chat.answering import ReplyPiece
    from newleaf.generate.chat.conversation import Conversation

PLAIN, DIM, BOLD = "\033[0m", "\033[2m", "\033[1m"
HELP = {
    "/reset": "begin again; the system message stays",
    "/system TEXT": "another system message; none without TEXT",
    "/undo": "take back your last message and its answer",
    "/retry": "another answer to your last message",
    "/save FILE": "write the conversation as JSON",
    "/load FILE": "go on with a saved conversation",
    "/set NAME VALUE": "a sampling option, such as temperature 0.7; alone: show what is set",
    "/help": "this",
    "/exit": "leave; so does Ctrl-D",
}
NOTES = (
    'A line that ends in \\ goes on in the next; """ begins and ends a message of several lines. '
    "// begins a message with a slash. Ctrl-C stops an answer."
)


@contextlib.contextmanager
def hearing_ctrl_c() -> Iterator[list[int]]:
    """Ctrl-C raises KeyboardInterrupt, and is noted too: Python drops an exception that comes while an object
    is being taken down."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


class Terminal:
    """Reads, answers and prints until the user leaves."""

    def __init__(self, model: Model, conversation: Conversation, options: dict[str, Any], name: str) -> None:
        self.model = model
        self.conversation = conversation
        self.options = options
        self.name = name
        self.coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.commands: dict[str, Callable[[str], bool | None]] = {
            "/reset": self._reset, "/system": self._system, "/undo": self._undo, "/retry": self._retry,
            "/save": self._save, "/load": self._load, "/set": self._set, "/help": self._help,
            "/exit": lambda rest: True,
        }  # fmt: skip

    def run(self) -> None:
        """Until Ctrl-D or /exit."""
        self._note(f"{self.name}: type a message, or /help. Ctrl-D leaves.")
        with remembered_lines(default_cache_directory() / "chat_history") as editing:
            prompt, more = self._prompts(editing is not None)
            while True:
                try:
                    text = read_message(input, prompt, more)
                except EOFError:
                    print()
                    return
                except KeyboardInterrupt:
                    print()
                    self._note("Ctrl-D leaves.")
                    continue
                try:
                    if self._check_stop(text):
                        return
                except InputError as error:
                    self._note(" ".join(str(error).split()))
                except KeyboardInterrupt:
                    print()

    def _prompts(self, editing: bool) -> tuple[str, str]:
        if not self.coloured:
            return "> ", ". "
        marks = ("\001", "\002") if editing else ("", "")  # tell readline what takes no room
        return tuple(f"{marks[0]}{BOLD}{marks[1]}{sign}{marks[0]}{PLAIN}{marks[1]} " for sign in (">", "."))  # type: ignore[return-value]

    def _check_stop(self, text: str) -> bool | None:
        """Do what a line says; true to leave."""
        if not text.strip():
            return None
        if text.startswith("//") or not text.startswith("/"):
            self._say(text.removeprefix("/"))
            return None
        command, _, rest = text.partition(" ")
        if command not in self.commands:
            raise InputError(
                f"{command}: no such command; /help lists them, and // begins a message with a slash"
            )
        return self.commands[command](rest.strip())

    def _say(self, text: str) -> None:
        """Send a message and show the answer as it comes."""
        before = self.conversation.forgotten
        last, thinking = None, False
        with (
            hearing_ctrl_c() as pressed,
            contextlib.closing(self.conversation.say(text, **self.options)) as pieces,
        ):
            timed = Timed(pieces)
            try:
                for piece in timed:
                    if pressed:
                        raise KeyboardInterrupt
                    if last is None:
                        self._tell_forgotten(before)
                    if piece.text:
                        thinking = self._show(piece, thinking)
                    last = piece
            except KeyboardInterrupt:
                self._end_colour(thinking)
                print()
                self._note("stopped" if last is not None else "stopped; your message is taken back")
                return
        self._end_colour(thinking)
        print()
        speed = f", {timed.per_second:.1f} tokens/s" if timed.per_second is not None else ""
        ended = self._cut(last.end) if last is not None else ""
        self._note(f"{timed.tokens:,} token{'' if timed.tokens == 1 else 's'}{speed}{ended}")

    def _cut(self, end: str | None) -> str:
        context = self.model.network.config.context_length
        full = (
            f"; cut off: the context of {context:,} tokens is full, and the next message makes the "
            f"model forget the oldest ones"
        )
        return {"length": "; cut off: say “go on”, or /set max_tokens", "context": full}.get(end or "", "")

    def _show(self, piece: ReplyPiece, thinking: bool) -> bool:
        """Print a piece, thoughts dim and apart; returns whether it was a thought."""
        thought = piece.kind == "reasoning"
        if thought and not thinking:
            print(DIM if self.coloured else "(thinking)\n", end="")
        if thinking and not thought:
            self._end_colour(True)
            print("\n")
        print(printable(piece.text), end="", flush=True)
        return thought

    def _end_colour(self, thinking: bool) -> None:
        if thinking and self.coloured:
            print(PLAIN, end="")

    def _tell_forgotten(self, before: int) -> None:
        if self.conversation.forgotten > before:
            limit = self.model.network.config.context_length
            count = self.conversation.forgotten
            self._note(
                f"the context of {limit:,} tokens is full: the model no longer sees the oldest {count} "
                f"messages"
            )

    def _reset(self, rest: str) -> None:
        self.conversation.reset()
        self._note("a new conversation")

    def _system(self, rest: str) -> None:
        self.conversation.set_system(rest or None)
        self._note("system message set" if rest else "no system message")

    def _undo(self, rest: str) -> None:
        text = self.conversation.undo()
        self._note("there is nothing to take back" if text is None else f"taken back: {_short(text)}")

    def _retry(self, rest: str) -> None:
        text = self.conversation.undo()
        if text is None:
            raise InputError("there is no message to answer again")
        self._say(text)

    def _save(self, rest: str) -> None:
        path = _path(rest, "/save FILE")
        if path.exists():
            _read_conversation(path)  # only a saved conversation is written over
        try:
            write_json(path, {"messages": self.conversation.messages})
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        self._note(f"{len(self.conversation.messages)} messages in {path}")

    def _load(self, rest: str) -> None:
        path = _path(rest, "/load FILE")
        self.conversation.replace(_read_conversation(path))
        self._note(f"{len(self.conversation.messages)} messages from {path}")

    def _set(self, rest: str) -> None:
        if not rest:
            config = answer_config(self.options)
            shown = {"max_tokens": config.max_tokens, "temperature": config.temperature} | self.options
            self._note(", ".join(f"{name} {value}" for name, value in shown.items()))
            return
        name, _, value = rest.partition(" ")
        if not value:
            raise InputError("/set NAME VALUE, such as /set temperature 0.7")
        changed = self.options | {name.replace("-", "_"): value.strip()}
        answer_config(changed)
        self.options = changed
        self._note(f"{name} {value.strip()}")

    def _help(self, rest: str) -> None:
        width = min(shutil.get_terminal_size().columns, 100)
        wide = width >= 70
        for command, text in HELP.items():
            first = f"{command:<18}" if wide else f"{command}\n    "
            lines = textwrap.wrap(text, width - (18 if wide else 4))
            print(first + ("\n" + " " * (18 if wide else 4)).join(lines))
        print(textwrap.fill(NOTES, width))

    def _note(self, text: str) -> None:
        """What newleaf itself says."""
        lines = textwrap.fill(printable(text), shutil.get_terminal_size().columns - 1, break_on_hyphens=False)
        print(f"{DIM}{lines}{PLAIN}" if self.coloured else f"[{lines}]", flush=True)


def _short(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder=" …")


def _path(rest: str, usage: str) -> Path:
    try:
        words = shlex.split(rest) if os.name == "posix" else [rest]
    except ValueError:
        words = []
    if len(words) != 1:
        raise InputError(f"{usage}: takes one file; set quotes around a name with spaces")
    return Path(words[0]).expanduser()


def _read_conversation(path: Path) -> Any:
    """The messages of a saved conversation. Raises InputError when the file holds none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or "messages" not in found:
        raise InputError(f"{path}: holds no saved conversation, which is JSON with a list of messages")
    return found["messages"]
