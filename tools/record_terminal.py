"""A command's terminal as an animated SVG: `python -m tools.record_terminal OUT.svg -- newleaf demo`.

Runs the command in a pseudo-terminal (so not on Windows), replays what it wrote on a terminal emulator (pyte)
and draws a film of some frames, the last of which stays. Nothing is edited but the time: `--seconds` is what
the film takes, however long the command took.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import html
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pyte

CELL, LINE, FONT = 8.4, 18, 14  # width and height of a character cell, size of the font, in pixels
MARGIN, BAR = 16, 32  # around the screen, and the window's title bar
BACKGROUND, FOREGROUND = "#1b1f24", "#d5dae0"
DOTS = ("#f2777a", "#e6c06a", "#8fc77b")  # of the title bar
COLOURS = {
    "black": "#5c6570", "red": "#f2777a", "green": "#8fc77b", "brown": "#e6c06a", "blue": "#6cb0f0",
    "magenta": "#cf8ee8", "cyan": "#63c7c9", "white": "#d5dae0", "default": FOREGROUND,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Characters of one style that stand side by side."""

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]


@dataclass
class Film:
    """Frames, and each distinct row once."""

    frames: list[list[int]] = field(default_factory=list)  # for each line of the screen, a row's number
    rows: dict[Row, int] = field(default_factory=dict)

    def add(self, screen: pyte.Screen) -> None:
        frame = [self.rows.setdefault(_row(screen, line), len(self.rows)) for line in range(screen.lines)]
        if not self.frames or frame != self.frames[-1]:
            self.frames.append(frame)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--lines", type=int, default=36)
    parser.add_argument("--frames", type=int, default=24, help="at most so many, evenly spread over the time")
    parser.add_argument("--seconds", type=float, default=12.0, help="from the first frame to the last")
    parser.add_argument("--last", type=float, default=8.0, help="seconds that the last frame stays")
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args()
    chunks = list(record(args.command, args.columns, args.lines))
    film = replay(chunks, args.columns, args.lines, args.frames)
    title = " ".join([Path(args.command[0]).name, *args.command[1:]])
    args.out.write_text(draw(film, args.columns, title, args.seconds, args.last), "utf-8")
    print(f"{args.out}: {len(film.frames)} frames, {args.out.stat().st_size / 1000:.0f} kB")


def record(command: list[str], columns: int, lines: int) -> Iterator[tuple[float, bytes]]:
    """(seconds since the start, bytes) as the command writes them. Exits when the command fails."""
    start = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(lines))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    while True:
        try:
            data = os.read(terminal, 65_536)
        except OSError:  # Linux: the other side is closed
            data = b""
        if not data:
            break
        yield time.monotonic() - start, data
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        sys.exit(f"{' '.join(command)}: exit status {status}")


def replay(chunks: list[tuple[float, bytes]], columns: int, lines: int, count: int) -> Film:
    screen = pyte.Screen(columns, lines)
    stream, decoder = pyte.Stream(screen), codecs.getincrementaldecoder("utf-8")("replace")
    film, end, due = Film(), chunks[-1][0], 0.0
    for at, data in chunks:
        while at >= due:
            film.add(screen)
            due += end / max(1, count - 1)
        stream.feed(decoder.decode(data))
    film.add(screen)
    return film


def _row(screen: pyte.Screen, line: int) -> Row:
    cells = [screen.buffer[line][column] for column in range(screen.columns)]
    runs, column = [], 0
    for (foreground, bold), group in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
        text = "".join(cell.data for cell in group)
        if text.strip():
            colour = COLOURS.get(foreground) or f"#{foreground}"
            blanks = len(text) - len(text.lstrip())
            runs.append(Run(column + blanks, text.strip(), colour, bold))
        column += len(text)
    return tuple(runs)


def draw(film: Film, columns: int, title: str, seconds: float, last: float) -> str:
    """The SVG: all frames side by side, behind a window that moves from one to the next."""
    drawn = {number for row, number in film.rows.items() if row}
    used = 1 + max(
        (line for frame in film.frames for line, row in enumerate(frame) if row in drawn), default=0
    )
    width, height = columns * CELL + 2 * MARGIN, used * LINE + 2 * MARGIN + BAR
    total, count = seconds + last, len(film.frames)
    step = seconds / max(1, count - 1)
    keys = "".join(
        f"{100 * number * step / total:.2f}%{{transform:translateX({-number * width:.1f}px)}}"
        for number in range(count)
    )
    end = f"translateX({-(count - 1) * width:.1f}px)"
    style = (
        "text{white-space:pre;font:" + f"{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,"
        "'DejaVu Sans Mono',monospace}" + f"@keyframes film{{{keys}to{{transform:{end}}}}}"
        f".film{{animation:film {total:g}s steps(1,end) infinite}}"
        f"@media(prefers-reduced-motion:reduce){{.film{{animation:none;transform:{end}}}}}"
    )
    dots = [f'<circle cx="{20 + 18 * n}" cy="18" r="5.5" fill="{DOTS[n]}"/>' for n in range(len(DOTS))]
    name = html.escape(title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'width="{width:.0f}" height="{height}"><title>{name}</title><style>{style}</style>',
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        *dots,
        f'<text x="{width / 2:.0f}" y="22" text-anchor="middle" fill="#8b949e">$ {name}</text>',
        "<defs>",
        *(f'<g id="r{number}">{_text(row)}</g>' for row, number in film.rows.items() if row),
        "</defs>",
        '<g class="film">',
    ]
    for number, frame in enumerate(film.frames):
        uses = (f'<use href="#r{row}" y="{line * LINE}"/>' for line, row in enumerate(frame) if row in drawn)
        place = f"translate({number * width + MARGIN:.1f},{MARGIN + BAR})"
        parts.append(f'<g transform="{place}">{"".join(uses)}</g>')
    return "\n".join([*parts, "</g></svg>", ""])


def _text(row: Row) -> str:
    texts = []
    for run in row:
        weight = ' font-weight="bold"' if run.bold else ""
        texts.append(
            f'<text x="{run.column * CELL:.1f}" y="{FONT - 2}" textLength="{len(run.text) * CELL:.1f}" '
            f'fill="{run.colour}"{weight}>{html.escape(run.text)}</text>'
        )
    return "".join(texts)


if __name__ == "__main__":
    main()
