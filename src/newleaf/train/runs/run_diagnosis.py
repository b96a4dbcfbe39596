"""What a run's figures mean: which step model/ holds, where it began to overfit, what would help, and the
command to type next."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from newleaf.format_amounts import counted
from newleaf.train.size_from_budget import MODEL_SIZES

WORSE = 0.005  # of the best figure: less than this above it is noise
FALLING = 0.015  # of the figure: a fall by more over the last part of the run goes on
LAST_PART = 0.3  # of the run
# of the validation loss: training this far below it knows its own text better than other text
WIDE_GAP = 0.15
# rereading up to four times is as good as new text (Muennighoff et al. 2023)
FEW_EPOCHS, MANY_EPOCHS = 4.0, 8.0

MAX_UNTRAINED_STEPS = 1  # steps of a timed run after which nothing was learned that a figure could show
ADVISED_STEPS = 100  # that such a run is advised to take

Advice = Literal["text", "longer", "larger"]


@dataclass(frozen=True)
class ValidationCurve:
    """A run's validations on the way, all on the same rows: the best one, the last one, and how far it fell
    at the end."""

    best_step: int
    best: float
    last_step: int
    last: float
    # over the last part of the run, as a share of the last figure; negative where it got worse; None if
    # unknown
    fall: float | None

    @property
    def overfits(self) -> bool:
        """Whether the figure got worse after the best step."""
        return self.last_step > self.best_step and abs(self.last - self.best) > WORSE * abs(self.best)


def validation_curve(
    metrics: Sequence[Mapping[str, Any]], key: str, higher_is_better: bool = False
) -> ValidationCurve | None:
    """The validations in a metrics.jsonl by this figure; None where there is none after the first step."""
    found = [
        (int(line["step"]), float(line[key]))
        for line in metrics
        if line["step"] > 0 and isinstance(line.get(key), int | float)
    ]
    if not found:
        return None
    sign = -1 if higher_is_better else 1
    best_step, best = min(found, key=lambda pair: (sign * pair[1], pair[0]))
    last_step, last = found[-1]
    begin = next((value for step, value in reversed(found) if step <= (1 - LAST_PART) * last_step), None)
    fall = None if begin is None else sign * (begin - last) / max(abs(last), 1e-9)
    return ValidationCurve(best_step, best, last_step, last, fall)


@dataclass(frozen=True)
class Diagnosis:
    """What a run on text came to.

    `gap` is how far its training loss lies below the validation's, as a share of it.
    """

    looks: ValidationCurve
    epochs: float
    gap: float
    advice: Advice


def diagnose(
    config: Mapping[str, Any], summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> Diagnosis | None:
    """By its curve, and how often it has read its text.

    None where the run has no validation in bits per byte.
    """
    looks = validation_curve(metrics, "val_bits_per_byte")
    if looks is None:
        return None
    made = config.get("record") or {}
    epochs = float(summary.get("tokens_seen", 0)) / max(float(made.get("train_tokens") or math.inf), 1.0)
    gap = 1 - _training_bits(made, metrics) / looks.last if looks.last else 0.0
    return Diagnosis(looks, epochs, gap, _advice(looks, epochs, gap))


def _advice(looks: ValidationCurve, epochs: float, gap: float) -> Advice:
    if looks.overfits or (epochs > MANY_EPOCHS and gap > WIDE_GAP):
        return "text"
    if looks.fall is None or looks.fall > FALLING:
        return "longer"
    return "larger" if epochs < FEW_EPOCHS or gap < WIDE_GAP else "text"


def _training_bits(made: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> float:
    """Bits per byte of the last twentieth of the training steps.

    Not a number where the text's size is not known.
    """
    losses = [float(line["loss"]) for line in metrics if "loss" in line]
    size, tokens = made.get("text_bytes"), made.get("train_tokens")
    if not losses or not size or not tokens:
        return math.nan
    last = losses[-max(1, len(losses) // 20) :]
    return sum(last) / len(last) / math.log(2) * float(tokens) / float(size)


def unigram_bits(data: bytes) -> float:
    """The entropy of a text's single bytes (Shannon 1948), bits per byte: what counting them alone comes
    to."""
    counts, size = Counter(data), len(data)
    return sum(count / size * math.log2(size / count) for count in counts.values()) if size else 0.0


def diagnosis_lines(
    path: Path, config: Mapping[str, Any], summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The lines that end a run on text, with the next command as the last but one."""
    bits, found = summary["val_bits_per_byte"], diagnose(config, summary, metrics)
    ended = "" if summary.get("finished") else " (stopped early)"
    lines = [
        f"{path}: {bits:.3f} bits per byte of held-out text (lower is better), after "
        f"{counted(summary['steps'], 'step')} "
        f"and {summary['tokens_seen']:,} tokens in {summary['total_seconds']:.0f} s{ended}"
    ]
    lines += _line("beside it", describe_baselines(config))
    if found is not None:
        lines += _line("model/", describe_kept_weights(found.looks, summary, config))
        lines += _line("measured", describe_final_validation(found.looks, summary, metrics))
        short = out_of_time(config, summary)
        lines += _line("note", short)
        lines += _line(
            "what helps", describe_advice(found) if summary.get("finished") and short is None else None
        )
    return lines + [
        f"  {name:<15} {command}" for name, command in next_commands(path, config, summary, found)
    ]


def _line(name: str, words: str | None) -> list[str]:
    return [f"  {name:<15} {words}"] if words else []


def describe_baselines(config: Mapping[str, Any]) -> str | None:
    """What a compressor and plain counting make of the same text, where the run has measured it."""
    made = config.get("record") or {}
    xz, unigram = made.get("xz_bits_per_byte"), made.get("unigram_bits_per_byte")
    if xz is None or unigram is None:
        return None
    return f"xz takes {xz:.3f} for the same text, and counting its single bytes {unigram:.3f}"


def describe_kept_weights(
    looks: ValidationCurve, summary: Mapping[str, Any], config: Mapping[str, Any]
) -> str | None:
    """Which step's weights model/ holds, where that is not plain."""
    step, keep = (
        int(summary.get("best_step", summary["steps"])),
        (config.get("train") or {}).get("keep", "best"),
    )
    if not looks.overfits:
        return (
            f"of step {step:,}, the best; the last is {summary['steps']:,}"
            if step != summary["steps"]
            else None
        )
    rose = (
        f"it began to overfit at step {looks.best_step:,}: validation rose from {looks.best:.3f} to "
        f"{looks.last:.3f} at {looks.last_step:,}"
    )
    which = (
        f"of step {step:,}, the last, as --train.keep last asks"
        if keep == "last"
        else f"of step {step:,}, the best"
    )
    return f"{which}; {rose}"


def describe_final_validation(
    looks: ValidationCurve, summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> str | None:
    """Why the figure is another than the one that was shown on the way."""
    step = summary.get("best_step")
    line = next(
        (line for line in reversed(metrics) if line["step"] == step and "val_bits_per_byte" in line), None
    )
    if (
        line is None
        or not summary.get("finished")
        or line["val_bits_per_byte"] == summary["val_bits_per_byte"]
    ):
        return None
    windows = f"{counted(line['val_windows'], 'window')}" if "val_windows" in line else "some windows"
    return (
        f"on all held-out text that is used; what was shown on the way is of a sample of {windows} "
        f"({line['val_bits_per_byte']:.3f})"
    )


def describe_advice(found: Diagnosis) -> str:
    """Whether more text, more steps or a larger model would help most, and by what sign."""
    read = (
        f"it has read its text {found.epochs:.1f} times"
        if found.epochs >= 0.1
        else "it has read a small part of its text"
    )
    if found.advice == "longer" and found.looks.fall is None:
        return f"longer: it was validated too few times to tell whether it still gets better ({read})"
    if found.advice == "longer" and found.looks.fall is not None:
        return (
            f"longer: validation still fell by {100 * found.looks.fall:.1f} % over the last part of "
            f"the run ({read})"
        )
    if found.advice == "larger":
        return f"a larger model, with more time: validation has almost stopped falling, and {read}"
    return (
        f"more text: {read}, and knows it better than other text; without more, a smaller model or "
        f"--model.residual_dropout 0.2"
    )


def next_commands(
    path: Path, config: Mapping[str, Any], summary: Mapping[str, Any], found: Diagnosis | None
) -> list[tuple[str, str]]:
    """What to type next: to make it better, to write with it, to look at it."""
    where = shlex.quote(str(path))
    write, look = (
        ("write with it", f"newleaf generate {where} --max-tokens 200"),
        ("look at it", f"newleaf info {where}"),
    )
    if not summary.get("finished"):
        return [("go on with it", f"newleaf pretrain --resume {where}"), write]
    if found is None:
        return [write, look]
    advice: Advice = "longer" if out_of_time(config, summary) is not None else found.advice
    return [("make it better", improving_command(path, config, summary, advice)), write, look]


def improving_command(
    path: Path, config: Mapping[str, Any], summary: Mapping[str, Any], advice: Advice
) -> str:
    """The command that follows the advice, ready to be typed but for what only the user has."""
    where, again = shlex.quote(str(path)), shlex.quote(f"{path}-2")
    sources = config.get("source") or []
    text = " ".join(shlex.quote(str(each)) for each in sources) if len(sources) <= 3 else "TEXT"
    if advice == "longer":
        return f"newleaf pretrain --resume {where} {_doubled(config, summary)}"
    if advice == "text":
        return f"newleaf pretrain {text} MORE_TEXT --out {again} {_length(config, summary)}"
    width = (config.get("model") or {}).get("n_embd", 0)
    layers, wider, _ = next((rung for rung in MODEL_SIZES if rung[1] > width), MODEL_SIZES[-1])
    return f"newleaf pretrain {text} --size {layers}x{wider} --out {again} {_length(config, summary, 3)}"


def _doubled(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """As much again, as --resume takes it: more time, or twice the steps in all."""
    time = (config.get("train") or {}).get("time")
    return f"--time {advised_time(config, summary)}" if time else f"--steps {2 * int(summary['steps'])}"


def out_of_time(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str | None:
    """That a timed run took no more than one step, why that may be, and what to do.

    None where it took more.
    """
    time, steps = (config.get("train") or {}).get("time"), int(summary.get("steps", 0))
    if not time or steps > MAX_UNTRAINED_STEPS or not summary.get("finished"):
        return None
    took = f", and that took {float(summary.get('train_seconds', 0)):.0f} s" if steps else ""
    return (
        f"{time} were enough for {counted(steps, 'step')} only{took}: the time is short for this model and "
        f"data, "
        "or other programs kept the machine busy. Run it when the machine is idle, with a longer --time, or "
        "with a smaller model"
    )


def advised_time(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """--time for as long as the run again.

    Where that was next to no steps, for about `MIN_STEPS` by the pace it had.
    """
    time = str((config.get("train") or {}).get("time"))
    if out_of_time(config, summary) is None:
        return time
    steps, took = int(summary["steps"]), float(summary.get("train_seconds", 0))
    wanted = float(summary["total_seconds"]) + (ADVISED_STEPS * took / steps if steps else 0.0)
    return f"{math.ceil(max(wanted, 120.0) / 60)}m"


def _length(config: Mapping[str, Any], summary: Mapping[str, Any], times: int = 1) -> str:
    """So many times the length of this run, for a new one."""
    if (config.get("train") or {}).get("time"):
        return f"--time {max(1, round(times * float(summary['total_seconds'])))}s"
    return f"--steps {times * int(summary['steps'])}"
