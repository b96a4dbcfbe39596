"""The dial: sizes that follow text and budget, and sizes that a person asked for."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_clocks import Clock, Machine

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.train.display.monitor import SilentMonitor
from newleaf.train.size_from_budget import MODEL_SIZES, Budget, choose_size, data_budget, parse_size

MACHINE = 800e9  # FLOP/s


def weights(model: dict[str, int]) -> int:
    """Of a block's matrices: four of width × width, three of width × inner, as SwiGLU blocks have them."""
    return model["n_layer"] * model["n_embd"] * (4 * model["n_embd"] + 3 * model["n_inner"])


def test_more_time_gives_a_larger_network_until_the_text_is_too_small_for_it() -> None:
    sizes = [
        weights(choose_size(10_000_000, Budget(seconds=time, matrix_speed=MACHINE)).model)
        for time in (15, 60, 240, 960, 3840)
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 8 * sizes[0]
    small = [
        weights(choose_size(100_000, Budget(seconds=time, matrix_speed=MACHINE)).model)
        for time in (240, 3840, 61440)
    ]
    assert small[1] == small[2] < sizes[-1]


def test_text_that_is_read_many_times_gets_dropout_and_text_read_once_none() -> None:
    budget = Budget(seconds=600, matrix_speed=MACHINE)
    assert choose_size(1_000_000_000, budget).model["residual_dropout"] == 0
    small = choose_size(300_000, budget)
    assert small.model["residual_dropout"] == small.model["embedding_dropout"] == 0.2
    assert any("read about" in reason.text for reason in small.reasons)


def test_a_slower_machine_is_the_same_as_less_time() -> None:
    started = 10  # seconds that no machine trains in
    slow, short = (
        Budget(seconds=started + 600, matrix_speed=MACHINE / 5),
        Budget(seconds=started + 120, matrix_speed=MACHINE),
    )
    assert choose_size(5_000_000, slow).model == choose_size(5_000_000, short).model


def test_a_clock_bounds_how_much_text_is_used_and_more_time_has_use_for_more() -> None:
    assert data_budget(Budget(tokens=1_000_000), 4, 128, 2048) is None
    found = [data_budget(Budget(seconds=time, matrix_speed=MACHINE), 4, 128, 2048) for time in (15, 60, 240)]
    for one, other in pairwise(found):
        assert one.train < other.train
        assert one.tokenizer <= other.tokenizer <= other.train
        assert one.validation <= other.validation
    assert found[0].validation == 250_000, (
        "a whole validation of a quarter of a minute's run must not take a quarter of it"
    )
    assert found[1].validation >= 1_000_000
    tokens = 0.3 * MACHINE * 50 / (6 * (4 * 128 * (4 * 128 + 3 * 384) + 2048 * 128))
    assert found[1].train > 3 * tokens, "what the machine reads in a minute, at about three bytes a token"


def test_a_text_far_too_large_for_its_time_is_used_in_part_and_the_run_ends_on_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that steps, validations and samples advance."""
    machine = Machine(Clock())
    machine.install(monkeypatch)
    text = tmp_path / "large.txt"
    text.write_text("\n".join(f"{n} times {n % 97} is {n * (n % 97)}." for n in range(1_500_000)))
    run = machine.pretrain(text, tmp_path / "run", time="12s", train={"threads": 1})
    assert run.summary["total_seconds"] == pytest.approx(12, abs=0.5)
    data = run.folder.read_config()["data"]
    assert data["train_bytes"] < 0.5 * text.stat().st_size
    assert data["validation_bytes"] < 0.04 * text.stat().st_size
    assert run.folder.read_config()["tokenizer"]["train_bytes"] <= 1_500_000

    small = tmp_path / "small.txt"
    small.write_text(text.read_text()[:200_000])
    whole = machine.pretrain(small, tmp_path / "whole", time="8s", train={"threads": 1}).folder.read_config()[
        "data"
    ]
    assert whole["train_bytes"] == whole["validation_bytes"] == "all"


def test_rates_are_higher_for_few_steps_unless_a_recipe_has_its_own_or_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(Path(__file__).read_text() * 3)

    def rates(**options: Any) -> tuple[float, float]:
        run = newleaf.pretrain(
            tmp_path / "text.txt", out=tmp_path / "run", steps=25, quiet=True, overwrite=True, **options
        )
        optimizer = run.folder.read_config()["optimizer"]
        return optimizer["learning_rate"], optimizer["matrix_learning_rate"]

    assert rates() == (0.045, 0.04), (
        "15 times and twice the usual: the most, for few steps of a narrow network"
    )
    assert rates(optimizer={"learning_rate": 0.004}) == (0.004, 0.02)
    assert rates(model={"n_layer": 2, "n_embd": 32, "n_head": 2}) == (0.003, 0.02)


def test_rates_follow_steps_and_width_and_are_the_usual_ones_for_long_runs_of_wide_networks() -> None:
    def rates(steps: int, size: str) -> tuple[float, float]:
        return choose_size(10_000_000, Budget(steps=steps), size).rates

    assert rates(1200, "4x128") == (2.0, 1.0)
    assert rates(300, "4x128") == (4.0, pytest.approx(2**0.5, abs=0.05))
    assert rates(300, "3x64") == (8.0, pytest.approx(2**0.5, abs=0.05))
    assert rates(20_000, "6x384") == (1.0, 1.0)


def test_a_size_that_is_asked_for_stands_and_the_rest_follows_it() -> None:
    chosen = choose_size(1_000_000, Budget(tokens=1_000_000), "6x384").model
    assert (chosen["n_layer"], chosen["n_embd"], chosen["n_head"], chosen["head_dim"]) == (6, 384, 6, 64)
    assert parse_size("7×200") == (7, 200, 2), "heads of an even width near 64 that divide it"
    for n_layer, n_embd, n_head in MODEL_SIZES:
        assert parse_size(f"{n_layer}x{n_embd}") == (n_layer, n_embd, n_head)


def test_so_many_weights_give_the_nearest_rung() -> None:
    layers, width, _ = parse_size("10.6m")
    assert (layers, width) == (6, 384), "6 blocks of 4·384² + 3·384·1024 weights are 10.6 million"


@pytest.mark.parametrize("size", ["6", "6x", "0x128", "6x0", "6x383", "big", "-3m", "0m", ""])
def test_a_size_that_is_none_is_refused_before_anything_is_read(size: str) -> None:
    with pytest.raises(InputError, match="layers × an even width"):
        parse_size(size)


def test_the_command_takes_a_size_and_its_run_repeats_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "book.txt"
    text.write_text("The cat sat on the mat, and the dog sat on the log. " * 300, "utf-8")
    out = tmp_path / "run"
    train = ["pretrain", str(text), "--steps", "2", "--quiet", "--seed", "3"]
    assert main([*train, "--size", "2x64", "--out", str(out)]) == 0
    found = json.loads((out / "model" / "config.json").read_text("utf-8"))
    assert (found["num_hidden_layers"], found["hidden_size"]) == (2, 64)
    assert (
        main(["pretrain", "--config", str(out / "run.yaml"), "--out", str(tmp_path / "again"), "--quiet"])
        == 0
    )
    assert main([*train, "--size", "2x64", "--model.n_layer", "3", "--out", str(tmp_path / "both")]) == 2
    assert "model.n_layer is given too" in capsys.readouterr().err


def test_what_a_recipe_overrides_is_not_announced(book: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class RecordingMonitor(SilentMonitor):
        def say(self, text: str) -> None:
            said.append(text)

    def announced(number: int, **options: Any) -> str:
        said.clear()
        newleaf.pretrain(
            str(book), out=tmp_path / str(number), steps=2, monitor=RecordingMonitor(), **options
        )
        return " ".join(said)

    small = {"context_length": 32}
    plain = announced(0, model=small)
    assert all(word in plain for word in ("Size: ", "Vocabulary: ", "Learning rates: "))
    own = announced(1, model=small | {"n_layer": 1, "n_embd": 32, "n_head": 1, "head_dim": 32, "n_inner": 32})
    assert "Size: " not in own
    assert "Learning rates: " not in own
    assert "Vocabulary: " not in announced(2, model=small, tokenizer={"vocab_size": 300})
    rates = announced(3, model=small, optimizer={"learning_rate": 0.001})
    assert "Learning rates: " not in rates
    assert "Size: " in rates
