"""What each client is, the versions that were tried, and the environment it gets: a virtual environment, or a
folder of npm packages."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).with_name("scripts")
INSTALL_SECONDS, SCRIPT_SECONDS = 900, 900


@dataclass(frozen=True)
class Client:
    """A client by the name it has in the table. `packages` are installed, the first is the client itself;
    `script` uses it."""

    name: str
    packages: Sequence[str]
    script: str
    kind: str = "python"  # or "node"; "here" is this environment, "none" needs no package

    @property
    def package(self) -> str:
        """The client's own package, without extras and version."""
        if not self.packages:
            return ""
        text = self.packages[0]
        name = text if self.kind != "node" else text[0] + text[1:].partition("@")[0]
        return name.partition("==")[0].partition("[")[0]


CLIENTS = (
    Client("openai (Python)", ["openai==3.57.0"], "use_openai.py"),
    Client("openai (Node)", ["openai@6.49.0"], "use_openai.mjs", "node"),
    Client("openai-agents (Python)", ["openai-agents==0.24.0"], "use_agents.py"),
    Client("openai-agents (JavaScript)", ["@openai/agents@0.20.0", "zod@4.6.7"], "use_agents.mjs", "node"),
    Client("Codex", ["@openai/codex@0.171.0"], "use_codex.mjs", "node"),
    Client(
        "Vercel AI SDK",
        ["ai@6.0.326", "@ai-sdk/openai@3.0.141", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"],
        "use_ai_sdk.mjs",
        "node",
    ),
    Client("LangChain", ["langchain==1.5.2", "langchain-openai==1.7.4"], "use_langchain.py"),
    Client(
        "LlamaIndex",
        ["llama-index-core==0.14.25", "llama-index-llms-openai-like", "llama-index-embeddings-openai"],
        "use_llama_index.py",
    ),
    Client("LiteLLM", ["litellm==1.108.7", "fastapi", "orjson", "soundfile"], "use_litellm.py"),
    Client("instructor", ["instructor==1.17.0"], "use_instructor.py"),
    Client("pydantic-ai", ["pydantic-ai-slim[openai]==2.68.0"], "use_pydantic_ai.py"),
    Client("smolagents", ["smolagents[openai]==1.26.0"], "use_smolagents.py"),
    Client("llm", ["llm==0.36"], "use_llm.py"),
    Client("aider", ["aider-chat==0.86.2"], "use_aider.py"),
    Client("lm_eval", ["lm_eval"], "use_lm_eval.py", "here"),
    Client("Open WebUI, LibreChat, SillyTavern (bodies)", [], "use_open_webui.py", "none"),
)


class InstallError(Exception):
    """Why a client is not there."""


def prepared(client: Client, home: Path, fresh: bool) -> tuple[list[str], Path, str]:
    """The command that runs the client's script, the folder to run it in, and the client's version. Raises
    InstallError."""
    folder = home / client.script.replace(".", "-")
    if fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if client.kind == "node":
        return _node(client, folder)
    if client.kind in ("here", "none"):
        return [sys.executable, str(SCRIPTS / client.script)], folder, _version_here(client)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *client.packages], folder)
    version = _run(
        [str(python), "-c", f"import importlib.metadata as m; print(m.version({client.package!r}))"], folder
    )
    return [str(python), str(SCRIPTS / client.script)], folder, version.strip()


def _node(client: Client, folder: Path) -> tuple[list[str], Path, str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise InstallError("node and npm are not here")
    (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
    _run([npm, "install", "--no-audit", "--no-fund", "--silent", *client.packages], folder)
    for each in SCRIPTS.glob("*.mjs"):  # packages are looked for beside the script
        shutil.copy(each, folder)
    about = json.loads((folder / "node_modules" / client.package / "package.json").read_text("utf-8"))
    return [node, client.script], folder, str(about["version"])


def _version_here(client: Client) -> str:
    if not client.package:
        return ""
    try:
        return importlib.metadata.version(client.package)
    except importlib.metadata.PackageNotFoundError:
        raise InstallError("it is not in this environment: pip install 'newleaf[test]'") from None


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise InstallError(f"it was not installed after {INSTALL_SECONDS} seconds") from None
    if done.returncode != 0:
        last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-1:]
        raise InstallError(" ".join(last)[:200] or "the installer failed")
    return done.stdout
