"""Models by name, from a stand-in for the Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.storage.hub import local_folder
from newleaf.storage.model_folder import save_folder
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: mit\nlanguage: en\n---\n# A model\n"


@dataclass
class Hub:
    """A server with the models in `folder`, each owner/name; `asked` are the files it sent and the ranges
    asked for."""

    folder: Path
    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)  # files whose next transfer breaks off in the middle

    @property
    def files(self) -> set[str]:
        return {name for name, _ in self.asked}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), parts[4:])
        elif parts[2:3] == ["resolve"]:
            self.send_part(self.hub.folder / parts[0] / parts[1], "/".join(parts[4:]), body)
        else:
            self.refuse(404, "EntryNotFound")

    def describe(self, name: str, rest: list[str]) -> None:
        folder = self.hub.folder / name
        if not folder.is_dir():
            return self.refuse(401 if name.startswith("nobody") else 404, "RepoNotFound")
        if rest[:1] == ["revision"] and rest[1] not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = [
            {
                "type": "file",
                "path": p.relative_to(folder).as_posix(),
                "oid": "0" * 40,
                "size": p.stat().st_size,
            }
            for p in paths
        ]
        found = (
            files
            if rest[:1] == ["tree"]
            else {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f["path"]} for f in files]}
        )
        self.send(200, json.dumps(found).encode(), {}, body=True)

    def send_part(self, folder: Path, name: str, body: bool) -> None:
        if folder.name == "gated":
            return self.refuse(403, "GatedRepo")
        if not (folder / name).is_file():
            return self.refuse(404, "EntryNotFound")
        data, asked = (folder / name).read_bytes(), self.headers.get("Range")
        headers = {"X-Repo-Commit": COMMIT, "ETag": hashlib.sha1(data).hexdigest()}
        if not body:
            return self.send(200, data, headers, body=False)
        self.hub.asked.append((name, asked))
        if name in self.hub.cut:
            self.hub.cut.remove(name)
            self.close_connection = True
            return self.send(200, data, headers, body=True, until=len(data) * 3 // 5)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.send(206 if asked else 200, data[start:], headers, body=True)

    def send(
        self, status: int, data: bytes, headers: dict[str, str], body: bool, until: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:until])

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def put(folder: Path, config: GPTConfig) -> Path:
    save_folder(
        folder, config, GPT(config).state_dict(), train_tokenizer(["some text"], TokenizerConfig(), 257)
    )
    return folder


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    small = put(hub.folder / "somebody" / "small", GPTConfig(300, 16, 1, 2, 32))
    (small / "README.md").write_text(CARD)
    for other in (
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "original/model.safetensors",
        "vocab.json",
    ):
        (small / other).parent.mkdir(exist_ok=True)
        (small / other).write_bytes(b"not to be fetched")
    put(hub.folder / "somebody" / "gated", GPTConfig(300, 16, 1, 2, 32))
    put(hub.folder / "somebody" / "large", GPTConfig(300, 16, 2, 8, 512))
    sharded = put(hub.folder / "somebody" / "sharded", GPTConfig(300, 16, 1, 2, 32))
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    places = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    old = put(hub.folder / "somebody" / "old", GPTConfig(300, 16, 1, 2, 32))
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()


@pytest.fixture
def hub(stand_in: Hub) -> Hub:
    stand_in.asked.clear()
    stand_in.cut.clear()
    return stand_in


def environment(hub: Hub, home: Path, **other: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return inherited | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)} | other


def newleaf(hub: Hub, home: Path, *words: str, **other: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "newleaf", *words]
    return subprocess.run(
        command, env=environment(hub, home, **other), capture_output=True, text=True, timeout=120, check=False
    )


def python(hub: Hub, home: Path, code: str, **other: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment(hub, home, **other), capture_output=True, text=True, timeout=120, check=True
    ).stdout


def test_a_model_is_fetched_by_name_with_only_the_files_it_needs_and_kept(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = newleaf(hub, home, "generate", "somebody/small", "a", "--max-tokens", "4", "--seed", "1")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # no bars where nobody looks
    assert hub.files == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert list(home.rglob("model.safetensors"))
    count = len(hub.asked)
    again = newleaf(
        hub, home, "generate", "somebody/small", "a", "--max-tokens", "4", "--seed", "1", "--offline"
    )
    assert again.stdout == first.stdout
    assert len(hub.asked) == count


def test_shards_and_old_files_are_fetched_where_there_is_nothing_newer(hub: Hub, tmp_path: Path) -> None:
    code = (
        "import newleaf, sys; print([newleaf.load(f'somebody/{name}').network.parameter_count() for "
        "name in ('sharded', 'old')])"
    )
    one, two = json.loads(python(hub, tmp_path, code))
    assert one == two > 0
    weights = hub.files - {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert weights == {
        "model.safetensors.index.json",
        "part-0.safetensors",
        "part-1.safetensors",
        "pytorch_model.bin",
    }


def test_a_file_goes_on_where_the_connection_was_cut(hub: Hub, tmp_path: Path) -> None:
    hub.cut.add("model.safetensors")
    python(hub, tmp_path, "import newleaf; newleaf.load('somebody/large')")
    ranges = [asked for name, asked in hub.asked if name == "model.safetensors"]
    assert ranges[0] is None
    assert len(ranges) == 2
    start = int((ranges[1] or "").removeprefix("bytes=").split("-")[0])
    whole = (hub.folder / "somebody" / "large" / "model.safetensors").read_bytes()
    assert 0 < start <= len(whole) * 3 // 5
    assert next(tmp_path.rglob("model.safetensors")).read_bytes() == whole


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_sees_how_far_it_is(hub: Hub, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    command = [sys.executable, "-c", "import newleaf; newleaf.load('somebody/small')"]
    done = subprocess.Popen(command, env=environment(hub, tmp_path), stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        seen += part
        if not part:
            break
    os.close(ours)
    assert done.wait(60) == 0
    assert "100%|█" in seen.decode()


def test_info_and_plan_fetch_no_weights(hub: Hub, tmp_path: Path) -> None:
    planned = newleaf(hub, tmp_path, "plan", "somebody/small", "--json")
    assert planned.returncode == 0, planned.stderr
    assert hub.files == {"config.json"}
    found = json.loads(newleaf(hub, tmp_path, "info", "somebody/small", "--json").stdout)
    assert hub.files == {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert found["licence"] == "mit"
    assert found["stored_as"].startswith("float32, as config.json says")
    assert found["parameters"] == json.loads(planned.stdout)["figures"]["parameters"]["value"]


def test_a_run_whose_name_is_mistyped_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "runs" / "sonnets").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"^runs/sonets: not on this disk, and .*; did you mean runs/sonnets\?$"
    ):
        local_folder("runs/sonets", ("config.json",))


def test_offline_never_asks(hub: Hub, tmp_path: Path) -> None:
    said = "somebody/small: not on this disk, and --offline or HF_HUB_OFFLINE forbids to fetch it"
    done = newleaf(hub, tmp_path / "home", "plan", "somebody/small", "--offline")
    assert done.returncode == 2
    assert done.stderr.strip() == f"newleaf: {said}"
    code = "from newleaf.storage.hub import local_folder; local_folder('somebody/small', ('config.json',))"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        python(hub, tmp_path / "home", code, HF_HUB_OFFLINE="1")
    assert said in caught.value.stderr
    assert not hub.asked


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    names = {
        "somebody/else": "the Hub has no such model, or it is private",
        "nobody/private": "hf auth login",
        "somebody/gated": f"access on request; ask for it at {hub.address}/somebody/gated",
        "somebody/small@v9": "no revision v9",
        "somebody/small@../../x": "no such file or folder",
        "somebody/a..b": "not a name the Hub can have",
        "no name": "no such file or folder, and not an owner/name of the Hub",
    }
    code = f"""if True:
        from newleaf.errors import InputError
        from newleaf.storage.hub import local_folder
        for name in {list(names)}:
            try:
                print(local_folder(name, ("config.json",)))
            except InputError as error:
                print(repr(str(error)))
    """
    said = python(hub, tmp_path, code).splitlines()
    assert len(said) == len(names)
    for line, (name, part) in zip(said, names.items(), strict=True):
        assert part in line, line
        assert name.split("@")[0] in line
    done = newleaf(hub, tmp_path, "info", "somebody/else")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    nowhere = newleaf(Hub(tmp_path, "http://127.0.0.1:9"), tmp_path, "info", "somebody/small")
    assert "http://127.0.0.1:9 cannot be reached; try again, or give a local folder" in nowhere.stderr


def test_a_revision_may_be_named(hub: Hub, tmp_path: Path) -> None:
    code = (
        "from newleaf.storage.hub import local_folder; print(local_folder('somebody/small@v1', "
        "('config.json',)))"
    )
    folder = Path(python(hub, tmp_path, code).strip())
    assert (folder / "config.json").exists()
    assert (folder.parents[1] / "refs" / "v1").read_text() == COMMIT
