"""aider: a question about a file, and an edit, without a terminal."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from say import MODEL, URL, tried

PLACE = Path(tempfile.mkdtemp())
(PLACE / "hello.py").write_text("print('hello')\n")
FLAGS = (
    "--no-git --yes-always --no-auto-commits --no-check-update --no-show-model-warnings --analytics-disable "
    "--map-tokens 0 --no-detect-urls"
)


def aider(*words):
    environment = {**os.environ, "OPENAI_API_BASE": URL, "HOME": str(PLACE)}
    command = [sys.executable, "-m", "aider", "--model", f"openai/{MODEL}", *FLAGS.split(), *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=PLACE,
        env=environment,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-300:]
    assert "Tokens:" in said, said[-300:]
    return next(line for line in said.splitlines() if "Tokens:" in line)


tried("question, streamed", lambda: aider("--message", "/ask What does this file print?", "hello.py"))
tried(
    "edit, whole format",
    lambda: aider("--edit-format", "whole", "--no-stream", "--message", "Make it print goodbye.", "hello.py"),
)
