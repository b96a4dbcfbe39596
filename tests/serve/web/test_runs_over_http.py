"""Training runs over HTTP: the list, one run's course, what is new of it, and ids that try to lead
elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI (pip install 'newleaf[serve]')")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from handmade_runs import append, write_run

from newleaf.serve.api_errors import add_exception_handlers
from newleaf.serve.http.server_settings import Settings
from newleaf.serve.web import run_routes
from newleaf.serve.web.run_routes import runs_router
from newleaf.train.runs.run_history import read_curve


def client(folder: Path | None) -> TestClient:
    app = FastAPI()
    add_exception_handlers(app)
    app.include_router(runs_router(SimpleNamespace(settings=Settings(runs=folder))))  # type: ignore[arg-type]
    return TestClient(app)


def history(served: TestClient, run: str, after: str = "") -> dict[str, Any]:
    answer = served.get("/runs/history", params={"run": run, "after": after})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_list_says_what_each_folder_says_and_not_where_it_lies(tmp_path: Path) -> None:
    write_run(tmp_path / "good", bits=1.5)
    write_run(tmp_path / "deep" / "better", steps=60, bits=1.2)
    answer = client(tmp_path).get("/runs")
    runs = {run["id"]: run for run in answer.json()["data"]}
    assert set(runs) == {"good", "deep/better"}
    assert (
        runs["deep/better"]["steps"],
        runs["deep/better"]["val_bits_per_byte"],
        runs["deep/better"]["state"],
    ) == (60, 1.2, "finished")
    assert str(tmp_path) not in answer.text
    (tmp_path / "none").mkdir()
    assert client(tmp_path / "none").get("/runs").json() == {"object": "list", "folder": True, "data": []}
    assert client(None).get("/runs").json() == {"object": "list", "folder": False, "data": []}


def test_a_runs_course_is_that_of_its_metrics(tmp_path: Path) -> None:
    write_run(tmp_path / "good", bits=1.5)
    append(tmp_path / "good", '{"step": 40, "prompt": "Once", "sample": " upon"}\n')
    found = history(client(tmp_path), "good")
    curve = read_curve(tmp_path / "good")
    assert found["unit"] == "bits per byte"
    for axis in ("steps", "tokens", "seconds", "loss"):
        assert found["train"][axis] == pytest.approx(curve.train[axis], abs=1e-6)
        assert found["validation"][axis] == pytest.approx(curve.validation[axis], abs=1e-6)
    assert found["samples"] == [{"step": 40, "prompt": "Once", "sample": " upon"}]


def test_a_cursor_brings_only_what_is_new_and_a_rewritten_file_begins_anew(tmp_path: Path) -> None:
    run, served = write_run(tmp_path / "live", steps=10, state="running"), client(tmp_path)
    first = history(served, "live")
    assert (first["whole"], len(first["train"]["steps"])) == (True, 10)
    append(run, '{"step": 11, "loss": 2.0, "tokens": 1100, "seconds": 5.5}\n{"step": 12, "lo')
    second = history(served, "live", first["cursor"])
    assert (second["whole"], second["train"]["steps"]) == (False, [11])
    append(run, 'ss": 2.0, "tokens": 1200, "seconds": 6}\n')
    third = history(served, "live", second["cursor"])
    assert third["train"]["steps"] == [12]
    assert history(served, "live", third["cursor"])["train"]["steps"] == []
    aside = run / "aside"  # resuming puts a shorter file in the place of the old one
    aside.write_text(
        "".join((run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)[:5]), "utf-8"
    )
    aside.replace(run / "metrics.jsonl")
    again = history(served, "live", third["cursor"])
    assert (again["whole"], again["train"]["steps"]) == (True, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("cursor", ["x", "1.2.3", "1.-5", "99999999999.5", ".", "1.٣", "1." + "9" * 30])
def test_a_cursor_of_nobodys_begins_anew(cursor: str, tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    found = history(client(tmp_path), "good", cursor)
    assert (found["whole"], len(found["train"]["steps"])) == (True, 40)


@pytest.mark.parametrize(
    "run",
    ["../secret", "..", "/", "", ".", "good/../../secret", "good/", "%2e%2e/secret", "good\x00", "secret"],
)
def test_an_id_that_is_not_in_the_list_is_refused_whatever_path_it_spells(run: str, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "good")
    write_run(tmp_path / "secret")
    answer = client(tmp_path / "runs").get("/runs/history", params={"run": run})
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "run"


def test_a_long_run_comes_in_groups_whose_means_are_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_routes, "MAX_POINTS", 10)
    write_run(tmp_path / "long", steps=40, bits=1.0)
    found = history(client(tmp_path), "long")["train"]
    losses = [1.0 + 3 * math.exp(-step / 10) for step in range(1, 41)]
    assert found["steps"] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert found["loss"] == pytest.approx(
        [sum(losses[start : start + 4]) / 4 for start in range(0, 40, 4)], abs=1e-6
    )


def test_runs_full_of_nonsense_are_listed_and_answer(tmp_path: Path) -> None:
    odd = write_run(tmp_path / "odd")
    huge = "9" * 400
    append(
        odd,
        f'[1]\n\xff\n{{"loss": NaN}}\n'
        f'{{"step": {huge}, "loss": 1e300, "tokens": {huge}, "seconds": "x"}}\n{{"sample": 3}}\n'
        + "[" * 5000
        + "\n",
    )
    (odd / "summary.json").write_text(
        json.dumps({"finished": True, "steps": 1e308, "val_bits_per_byte": "low"})
    )
    (odd / "run.yaml").write_text(
        "model: {n_layer: 9, vocab_size: x}\nrecord: {text_bytes: 1e300, train_tokens: 1e-300}\n"
    )
    served = client(tmp_path)
    assert [run["id"] for run in served.get("/runs").json()["data"]] == ["odd"]
    assert len(history(served, "odd")["train"]["steps"]) <= 41


def test_losses_are_in_nats_where_the_texts_bytes_are_not_known(tmp_path: Path) -> None:
    run = write_run(tmp_path / "plain", bits=2.0)
    (run / "run.yaml").write_text("source: book.txt\n")
    found = history(client(tmp_path), "plain")
    assert found["unit"] == "nats per token"
    assert found["train"]["loss"][-1] == pytest.approx((2.0 + 3 * math.exp(-4)) * 3 * math.log(2), abs=1e-6)
