"""The tool that draws a terminal as an animated SVG."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("pyte")
pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")

from tools.record_terminal import draw, record, replay

CHUNKS = [
    (0.0, b"step 1\r\n"),
    (1.0, b"\x1b[1A\x1b[2K\x1b[32mstep <2>\x1b[0m\r\n"),
    (2.0, "完 done".encode()),
]


def test_frames_are_what_the_terminal_showed_at_their_times() -> None:
    film = replay(CHUNKS, columns=20, lines=4, count=3)
    rows = {number: [run.text for run in row] for row, number in film.rows.items()}
    shown = [[rows[number] for number in frame if rows[number]] for frame in film.frames]
    assert shown == [[], [["step 1"]], [["step <2>"]], [["step <2>"], ["完 done"]]]


def test_the_picture_is_well_formed_and_ends_with_the_last_frame() -> None:
    film = replay(CHUNKS, columns=20, lines=4, count=3)
    root = ElementTree.fromstring(draw(film, 20, "newleaf demo & more", 4.0, 2.0))
    svg = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{svg}title").text == "newleaf demo & more"  # type: ignore[union-attr]
    texts = {each.text: each.get("fill") for each in root.iter(f"{svg}text")}
    assert texts["step <2>"] == "#8fc77b"
    film_group = next(each for each in root.iter(f"{svg}g") if each.get("class") == "film")
    assert len(film_group) == len(film.frames)
    assert len(list(film_group[-1])) == 2  # two lines in the last frame
    style = root.find(f"{svg}style").text  # type: ignore[union-attr]
    assert (
        f"100%{{transform:translateX({-(len(film.frames) - 1) * 200.0:.1f}px)}}".replace("100%", "to")
        in style
    )  # type: ignore[operator]


def test_a_command_is_recorded_with_its_width_and_its_failure_ends_the_tool(tmp_path: Path) -> None:
    program = "import shutil; print(shutil.get_terminal_size().columns)"
    written = b"".join(data for _, data in record([sys.executable, "-c", program], columns=77, lines=9))
    assert written.strip() == b"77"
    with pytest.raises(SystemExit, match="exit status 3"):
        list(record([sys.executable, "-c", "raise SystemExit(3)"], columns=77, lines=9))
