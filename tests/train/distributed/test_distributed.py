"""One run in several processes, as torchrun starts them: the losses of one process, and a state that any
number of them goes on with."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed_worker
import pytest
import torch
from safetensors.torch import load_file

import newleaf
from newleaf.recipe import merge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
    ),
]

STEPS, STOP = 9, 5
RUN: dict[str, Any] = {
    "steps": STEPS,
    "tokenizer": {"vocab_size": 301},  # shared by no number of processes equally
    "model": {"n_layer": 2, "n_embd": 48, "n_head": 3, "n_kv_head": 3, "head_dim": 16, "n_inner": 80,
    "context_length": 32},
    "train": {
        "batch_size": 8,
        "micro_batch_size": 2,
        "precision": "fp32",
        "eval_every": 3,
        "eval_windows": 21,
        "sample": {"max_tokens": 3},
    },
}  # fmt: skip
FSDP: dict[str, Any] = {"train": {"parallel": "fsdp"}}
ADAM: dict[str, Any] = {"optimizer": {"kind": "adamw"}}
# no whole rows for four
ODD: dict[str, Any] = {
    "model": {"n_inner": 69, "n_embd": 50},
    "train": {"batch_size": 8, "micro_batch_size": 2},
}
# Sixteen windows at once, heads of 32: what the compiled loops take.
LOOPS: dict[str, Any] = {
    "model": {"n_embd": 64, "n_head": 2, "n_kv_head": 2, "head_dim": 32, "n_inner": 96, "positions": "rotary",
    "init_std": 0.2},
    "train": {"batch_size": 32, "micro_batch_size": 16, "precision": "bf16"},
}  # fmt: skip
AGAIN: dict[str, Any] = {"train": {"checkpoint_activations": True}}


def torchrun(processes: int, jobs: list[dict[str, Any]], at: Path, *options: str) -> subprocess.Popen[str]:
    plan = at / f"plan-{len(list(at.glob('plan-*')))}.json"
    plan.write_text(json.dumps(jobs))
    script = [str(Path(distributed_worker.__file__)), str(plan)]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        *options,
        *script,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="module")
def runs(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 1, 2 and 4 processes, whole ones and ones that went on with another number; the name says
    how."""
    at = tmp_path_factory.mktemp("runs")

    def job(name: str, *more: dict[str, Any], **others: Any) -> dict[str, Any]:
        return {"source": str(book), "out": str(at / name), "options": merge(RUN, *more)} | others

    def resumed(name: str, stopped: str) -> dict[str, Any]:
        return {"out": str(at / name), "copy": str(at / stopped)}

    for one in (
        job("one"),
        job("one-adam", ADAM),
        job("one-odd", ODD),
        job("one-loops", LOOPS),
        job("one-stopped", FSDP, stop_at=STOP),
    ):
        distributed_worker.take(one)
    kinds: list[tuple[str, tuple[dict[str, Any], ...]]] = [("ddp", ()), ("fsdp", (FSDP,))]
    jobs = [job(f"{kind}-2", *more) for kind, more in kinds] + [
        job(f"{kind}-adam-2", ADAM, *more) for kind, more in kinds
    ]
    jobs += [job(f"{kind}-2-stopped", *more, stop_at=STOP) for kind, more in kinds]
    jobs += [job("again-2", FSDP, AGAIN), job("loops-2", FSDP, LOOPS)]
    jobs += [resumed(f"{kind}-2-to-2", f"{kind}-2-stopped") for kind, _ in kinds]
    done(torchrun(2, [*jobs, resumed("fsdp-1-to-2", "one-stopped")], at))
    four = [job(f"{kind}-4", *more) for kind, more in kinds] + [job("odd-4", FSDP, ODD)]
    done(torchrun(4, four + [resumed(f"{kind}-2-to-4", f"{kind}-2-stopped") for kind, _ in kinds], at))
    for kind, _ in kinds:
        distributed_worker.take(resumed(f"{kind}-2-to-1", f"{kind}-2-stopped"))
    return at


def lines(run: Path, name: str) -> list[float]:
    """What metrics.jsonl says of `name`, by step."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line["step"] for line in found if "loss" in line]
    assert steps == list(range(1, STEPS + 1))
    return [line[name] for line in found if name in line]


@pytest.mark.parametrize("several", ["ddp-2", "ddp-4", "fsdp-2", "fsdp-4", "again-2"])
def test_several_processes_have_the_losses_of_one(several: str, runs: Path) -> None:
    """Muon rounds to bf16, so that sums in another order show after the first step."""
    one, found = lines(runs / "one", "loss"), lines(runs / several, "loss")
    assert found[0] == pytest.approx(one[0], abs=2e-6)
    assert found == pytest.approx(one, abs=1e-3)
    assert lines(runs / several, "val_bits_per_byte") == pytest.approx(
        lines(runs / "one", "val_bits_per_byte"), abs=1e-3
    )
    assert lines(runs / several, "grad_norm")[0] == pytest.approx(
        lines(runs / "one", "grad_norm")[0], rel=1e-5
    )
    assert lines(runs / several, "tokens") == lines(runs / "one", "tokens")


def test_in_bf16_the_compiled_loops_give_sharded_processes_the_losses_of_one(runs: Path) -> None:
    assert lines(runs / "loops-2", "loss") == pytest.approx(lines(runs / "one-loops", "loss"), abs=2e-2)
    assert lines(runs / "loops-2", "grad_norm")[0] == pytest.approx(
        lines(runs / "one-loops", "grad_norm")[0], rel=1e-2
    )


def test_matrices_whose_rows_four_processes_cannot_share_equally_are_stepped_alike(runs: Path) -> None:
    assert lines(runs / "odd-4", "loss") == pytest.approx(lines(runs / "one-odd", "loss"), abs=1e-3)


@pytest.mark.parametrize("several", ["ddp-adam-2", "fsdp-adam-2"])
def test_with_adamw_they_have_them_to_a_hundred_thousandth(several: str, runs: Path) -> None:
    assert lines(runs / several, "loss") == pytest.approx(lines(runs / "one-adam", "loss"), abs=1e-5)


@pytest.mark.parametrize("went_on", ["ddp-2-to-1", "ddp-2-to-4", "fsdp-2-to-1", "fsdp-2-to-4", "fsdp-1-to-2"])
def test_a_run_goes_on_with_another_number_of_processes(went_on: str, runs: Path) -> None:
    assert lines(runs / went_on, "loss") == pytest.approx(lines(runs / "one", "loss"), abs=1e-3)
    summary = json.loads((runs / went_on / "summary.json").read_text("utf-8"))
    assert (summary["resumed_from_step"], summary["finished"]) == (STOP, True)
    assert newleaf.load(runs / went_on).generate("a", max_tokens=2) is not None


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_with_the_same_number_it_goes_on_bit_for_bit(kind: str, runs: Path) -> None:
    whole, resumed = runs / f"{kind}-2", runs / f"{kind}-2-to-2"
    for name in ("loss", "grad_norm", "val_loss"):
        assert lines(whole, name) == lines(resumed, name)
    for file in sorted((whole / "state" / f"step-{STEPS:08d}").glob("*.safetensors")):
        other = load_file(resumed / file.relative_to(whole))
        assert all(torch.equal(tensor, other[key]) for key, tensor in load_file(file).items())
    assert (whole / "model/model.safetensors").read_bytes() == (
        resumed / "model/model.safetensors"
    ).read_bytes()


def test_each_process_writes_its_own_part_of_a_sharded_state_and_damage_is_found(
    runs: Path, tmp_path: Path
) -> None:
    state = runs / "fsdp-4" / "state" / f"step-{STEPS:08d}"
    sizes = [path.stat().st_size for path in state.glob("*.safetensors")]
    assert len(sizes) == 4
    assert sum(sizes) < 1.3 * (runs / "ddp-4" / "state" / state.name / "optimizer.safetensors").stat().st_size
    run = Path(shutil.copytree(runs / "fsdp-2-stopped", tmp_path / "run"))
    file = sorted((run / "state" / f"step-{STOP:08d}").glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    resumed = newleaf.resume(run, quiet=True)
    assert resumed.summary["resumed_from_step"] == 3


def test_a_process_that_dies_is_started_again_and_the_run_goes_on_by_itself(
    runs: Path, book: Path, tmp_path: Path
) -> None:
    job = {"source": str(book), "out": str(tmp_path / "run"), "options": RUN, "kill_at": STOP}
    done(torchrun(2, [job], tmp_path, "--max-restarts", "1"))
    assert lines(tmp_path / "run", "loss") == lines(runs / "ddp-2", "loss")
    assert json.loads((tmp_path / "run/summary.json").read_text("utf-8"))["resumed_from_step"] == 3


def test_without_restarts_the_job_ends_and_the_folder_can_be_resumed(
    runs: Path, book: Path, tmp_path: Path
) -> None:
    job = {"source": str(book), "out": str(tmp_path / "run"), "options": merge(RUN, FSDP), "kill_at": STOP}
    done(torchrun(2, [job], tmp_path), code=1)
    assert newleaf.resume(tmp_path / "run", quiet=True).summary["resumed_from_step"] == 3
    assert lines(tmp_path / "run", "loss") == pytest.approx(lines(runs / "one", "loss"), abs=1e-3)


def test_a_signal_to_torchrun_leaves_a_checkpoint_of_the_step_it_came_in(
    runs: Path, book: Path, tmp_path: Path
) -> None:
    job = {"source": str(book), "out": str(tmp_path / "run"), "options": RUN, "slow": 0.3}
    process = torchrun(2, [job], tmp_path)
    metrics = tmp_path / "run/metrics.jsonl"
    while not (metrics.exists() and '"step": 4,' in metrics.read_text("utf-8")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    summary = json.loads((tmp_path / "run/summary.json").read_text("utf-8"))
    assert not summary["finished"]
    assert 4 <= summary["steps"] < STEPS
    assert newleaf.resume(tmp_path / "run", quiet=True).summary["resumed_from_step"] == summary["steps"]
    assert lines(tmp_path / "run", "loss") == pytest.approx(lines(runs / "one", "loss"), abs=1e-3)
