"""The llm command line: a prompt, a conversation, a schema and a tool."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from say import MODEL, QUESTION, URL, tried

HOME = Path(tempfile.mkdtemp())
ABOUT = {
    "model_id": "here",
    "model_name": MODEL,
    "api_base": URL,
    "supports_tools": True,
    "supports_schema": True,
}
(HOME / "extra-openai-models.yaml").write_text(json.dumps([ABOUT]))  # JSON is YAML


def llm(*words):
    environment = {**os.environ, "LLM_USER_PATH": str(HOME)}
    command = [sys.executable, "-m", "llm", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-300:]
    return done.stdout.strip()


SHORT = ("-o", "max_tokens", "40")
tried("prompt", lambda: llm("-m", "here", *SHORT, QUESTION)[:60])
tried("next turn of a conversation", lambda: llm("-c", *SHORT, "And of Norway?")[:60])
tried(
    "schema",
    lambda: json.loads(llm("-m", "here", "--schema", "far bool", "-o", "max_tokens", "250", "Is it far?"))[
        "far"
    ],
)
tried(
    "tools",
    lambda: llm("-m", "here", "-T", "llm_version", "-o", "max_tokens", "60", "Which version of llm is this?")[
        :60
    ],
)
