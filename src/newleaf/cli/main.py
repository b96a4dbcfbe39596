"""The `newleaf` command: finds the subcommand, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import threading
import time
from pathlib import Path

from newleaf.cli import (
    chat,
    classify,
    convert,
    demo,
    evaluate,
    finetune,
    generate,
    info,
    plan,
    pretrain,
    runs,
    serve,
)
from newleaf.cli.arguments import Parser, nearest, refuse_empty, sort_words
from newleaf.errors import InputError, Stopped, ToldElsewhereError
from newleaf.version import VERSION

SPINS = "1000"  # tens of microseconds
OF_THE_DISK = {  # what no command can help
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO, errno.EISDIR,
    errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG,
}  # fmt: skip
COMMANDS = (demo, pretrain, finetune, generate, chat, classify, serve, evaluate, convert, info, runs, plan)


GREETING = """newleaf trains your own GPT from a text file, on the machine you have; it opens,
tunes, measures and serves the open ones too.

  newleaf demo                           train for two minutes; needs nothing
  newleaf pretrain book.txt --time 3m --out runs/book        on a text of yours
  newleaf generate runs/book "Once upon a time"              write with it
  newleaf serve runs/book                                    talk in the browser

newleaf --help lists the commands, newleaf COMMAND --help the options of one."""


def build_parser() -> tuple[Parser, dict[str, argparse.ArgumentParser]]:
    """The whole parser, and each command's by its name."""
    parser = Parser(
        prog="newleaf",
        description="Train your own GPT from a text file, and write with it.",
        epilog="First time here: newleaf demo",
    )
    parser.add_argument("--version", action="version", version=f"newleaf {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for module in COMMANDS:
        module.add(commands)
    return parser, dict(commands.choices)


def parse(words: list[str]) -> argparse.Namespace:
    """The command and its options, in whatever order the words stand. Raises InputError."""
    parser, commands = build_parser()
    place = next((at for at, word in enumerate(words) if not word.startswith("-")), None)
    if place is None:
        return parser.parse_args(words)  # --help, --version, or what it complains about
    name = words[place]
    if not name:
        raise InputError("the command's name is empty; newleaf --help lists them")
    if name not in commands:
        raise InputError(f"{name}: no such command{nearest(name, commands) or '; newleaf --help lists them'}")
    if place:
        if words[0] in ("-h", "--help", "--version"):
            parser.parse_args(words[:1])  # prints and ends
        raise InputError(
            f"{words[0]}: stands before the command; options stand behind its name: newleaf {name} {words[0]}"
        )
    found = sort_words(commands[name], words[place + 1 :])
    parsed, left = commands[name].parse_known_args(
        [*found.options, *(["--", *found.rest] if found.rest else [])]
    )
    if left:
        advice = (
            "--choice takes one text and is repeated"
            if getattr(parsed, "choice", None)
            else "a text with spaces wants quotes"
        )
        raise InputError(
            f"{left[-1]}: a word too many for newleaf {name}; {advice}; see newleaf {name} --help"
        )
    refuse_empty(commands[name], found, parsed)
    parsed.rest = found.recipe
    for note in found.notes:
        print(f"newleaf: {note}", file=sys.stderr)
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 for a fault of ours, 2 for bad input, 130 after a second
    Ctrl-C."""
    started = time.monotonic()
    _open_streams()
    _check_stop_of_others()
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        given = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--debug"]
        if not given:
            print(GREETING)
            return 0
        parsed = parse(given)
        parsed.started = started
        return int(parsed.run(parsed) or 0)
    except Stopped as stop:
        return _stopped(str(stop))
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ToldElsewhereError:
        return 2
    except InputError as error:
        if debug:
            raise
        return _fail(" ".join(str(error).split()), 2)
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_out_of_memory(error):
            raise
        return _fail(
            "there is not enough memory for this; close other programs, or choose a smaller model, batch or "
            "context",
            2,
        )
    except OSError as error:
        if debug or error.errno not in OF_THE_DISK:
            raise
        return _fail(f"{error.filename or 'writing'}: {(error.strerror or str(error)).lower()}", 2)


def _open_streams() -> None:
    """Streams that the caller has closed (`<&-`, `>&-`, `2>&-`) read and write nothing. Python has None for
    them: notes would go to standard output, and files opened later would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # a terminal without a letter shows another, and the command goes on
        sys.stdout.reconfigure(errors="replace")


def _check_stop_of_others() -> None:
    """Where something else is running now, let OpenMP's threads, which are PyTorch's, sleep soon after they
    ran out of work. By themselves they spin for milliseconds, and one waits for the other most of the time;
    alone on a machine, spinning is an eighth faster. To be called before torch is imported: it reads this
    once."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() and all(
        _running() > 1 for _ in range(3)
    ):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _running() -> int:
    """How many threads the machine runs or would like to, this one included; 1 where the system does not
    say."""
    time.sleep(0.002)
    try:
        return int(Path("/proc/loadavg").read_text("ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch's own error for it is a RuntimeError."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _stopped(text: str) -> int:
    code = _fail(text, 0)
    if any(thread.daemon for thread in threading.enumerate()):
        # One that was left computing in a library comes back to an interpreter that is being taken down, and
        # crashes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _fail(text: str, code: int) -> int:
    print(f"newleaf: {text}", file=sys.stderr)
    return code
