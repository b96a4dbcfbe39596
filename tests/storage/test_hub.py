"""Models by name, from a stand-in for the Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from newleaf.model import GPT, GPTConfig
from newleaf.storage.folder import save_folder
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a Hub that has one model, somebody/small, and the files it was asked for."""
    folder = tmp_path / "hub"
    config = GPTConfig(300, 16, 1, 2, 32)
    save_folder(folder, config, GPT(config).state_dict(), train_tokenizer(["some text"], TokenizerConfig(), 257))
    (folder / "pytorch_model.bin").write_bytes(b"not to be fetched")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/api/models/somebody/small"):
                files = [{"type": "file", "path": p.name, "oid": "0" * 40, "size": p.stat().st_size} for p in sorted(folder.iterdir())]
                siblings = [{"rfilename": p["path"]} for p in files]
                data = json.dumps(files if "/tree/" in path else {"id": "somebody/small", "sha": COMMIT, "siblings": siblings}).encode()
            elif path.startswith("/somebody/small/resolve/") and (folder / Path(path).name).exists():
                data = (folder / Path(path).name).read_bytes()
                asked.append(Path(path).name)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                return
            self.send_response(200)
            for name, value in (("Content-Length", str(len(data))), ("X-Repo-Commit", COMMIT), ("ETag", hashlib.sha1(data).hexdigest())):
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def newleaf(hub: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
    }
    return subprocess.run(
        [sys.executable, "-m", "newleaf", *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_model_is_fetched_by_name_with_only_the_files_it_needs_and_kept(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    first = newleaf(address, tmp_path / "home", "generate", "somebody/small", "a", "--max-tokens", "4", "--seed", "1")
    assert first.returncode == 0, first.stderr
    assert "model.safetensors" in asked
    assert "pytorch_model.bin" not in asked
    again = newleaf(address, tmp_path / "home", "generate", "somebody/small", "a", "--max-tokens", "4", "--seed", "1", "--offline")
    assert again.stdout == first.stdout


def test_offline_never_asks(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    done = newleaf(address, tmp_path / "home", "info", "somebody/small", "--offline")
    assert done.returncode == 2
    assert "somebody/small: not on this disk" in done.stderr
    assert not asked


def test_a_name_the_hub_does_not_have_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    done = newleaf(hub[0], tmp_path / "home", "info", "somebody/else")
    assert done.returncode == 2
    assert done.stderr.startswith("newleaf: somebody/else: ")
    assert len(done.stderr.splitlines()) == 1
