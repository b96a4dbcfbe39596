"""What a run of tuning came to: what its figure means, the baseline beside it, whether it learned at all, and
what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from newleaf.format_amounts import counted
from newleaf.train.runs.run_diagnosis import (
    FALLING,
    ValidationCurve,
    advised_time,
    out_of_time,
    validation_curve,
)

BARELY = 0.01  # of the loss before: a fall by less is no learning
FEW_STEPS = 30  # in which little can be learned at any rate
PERFECT = (
    "rows of another source, to test it on: every held-out row is right, and these cannot tell a better model"
)
SIMPLEST = ("commonest label", "commonest place")
SCORES = ("accuracy", "macro_f1", "micro_f1", "matthews")
MEANING = {
    "val_bits_per_byte": "bits per byte of held-out text (lower is better)",
    "val_loss": "nats per learned token or row, held out (lower is better)",
    "val_accuracy": "of held-out rows are right (accuracy: higher is better, 1 is all of them)",
    "val_macro_f1": "is the mean F1 of the labels on held-out rows (higher is better, 1 is perfect)",
    "val_micro_f1": "is the F1 of all labels together on held-out rows (higher is better, 1 is perfect)",
    "val_matthews": "is Matthews correlation on held-out rows (0 is chance, 1 is perfect)",
}

Values = Mapping[str, Any]


def describe_score(path: Path, config: Values, summary: Values, metrics: Sequence[Values]) -> list[str]:
    """Lines for the end of a run, each with a name; the last is a command where there is something to try."""
    key = next((name for name in summary if name.startswith("val_")), None)
    if key is None:
        return []
    before = next((line for line in metrics if line["step"] == 0 and key in line), {})
    lines = [("the figure", meaning(key, summary, before)), ("beside it", describe_baselines(key, summary))]
    wrong, short = find_problem(key, summary, before), out_of_time(config, summary)
    if short is not None:
        lines.append(("note", short))
    elif wrong is not None:
        lines += [("note", wrong), ("try", suggest_remedy(config, summary))]
    elif summary.get("finished"):
        lines.append(("what helps", PERFECT if _perfect(key, summary) else suggest_improvement(key, metrics)))
    if summary.get("finished") and (short or wrong or not _perfect(key, summary)):
        again = wrong is not None and short is None
        lines.append(("make it better", command(path, config, summary, again, _overfit_after(key, metrics))))
    return [f"  {name:<15} {words}" for name, words in lines if words]


def meaning(key: str, summary: Values, before: Values) -> str:
    """The figure that chose the checkpoint, in words."""
    score = float(summary[key])
    then = f"; {float(before[key]):.3f} before" if key in before else ""
    other = f"{key.removeprefix('val_')} of answers to held-out questions (higher is better)"
    return f"{score:.3f} {MEANING.get(key, other)}{then}"


def describe_baselines(key: str, summary: Values) -> str | None:
    """The baselines by the same score on the same rows.

    The model's own too where the report is on other rows than the figure.
    """
    name = _score(key, summary)
    if name is None:
        return None
    report = summary["report"]
    others = ", ".join(
        f"{who} {scores[name]:.3f}" for who, scores in summary["baselines"].items() if name in scores
    )
    if report["rows"] == "validation" and key == f"val_{name}":
        return others
    rows = counted(report["n"], f"{report['rows']} row")
    return f"{name.replace('_', '-')} on {rows}: {report[name]:.3f}; {others}"


def find_problem(key: str, summary: Values, before: Values) -> str | None:
    """That it learned nothing, or less than something simple does; None where it did."""
    name = _score(key, summary)
    if name is not None:
        score = float(summary["report"][name])
        others = {who: float(scores[name]) for who, scores in summary["baselines"].items() if name in scores}
        for who in SIMPLEST:
            if who in others and score <= others[who]:
                return f"no better than giving every row the {who}: it has learned nothing that helps"
        best = max(others, key=lambda who: others[who])
        if score < others[best]:
            return f"below {best} with logistic regression, which takes seconds ({others[best]:.3f})"
        return None
    if "val_loss" in before and "val_loss" in summary:
        was, now = float(before["val_loss"]), float(summary["val_loss"])
        if was - now < BARELY * abs(was):
            return (
                f"the validation loss barely moved ({was:.3f} before, {now:.3f} after): it has learned "
                f"next to nothing new"
            )
    return None


def suggest_remedy(config: Values, summary: Values) -> str:
    """What most often helps a run that learned too little."""
    steps = int(summary.get("steps", 0))
    few = (
        f"more steps than {steps:,} (--epochs, or a longer --time), "
        if steps < FEW_STEPS
        else "more epochs, "
    )
    return (
        f"{few}a higher rate ({higher_rates(config)}; --sweep finds one), or a larger base that was "
        f"trained for longer"
    )


def higher_rates(config: Values) -> str:
    """The options for three times this run's rates."""
    peak = config.get("optimizer") or {}
    rate = f"--optimizer.learning_rate {3 * float(peak.get('learning_rate') or 0):.2g}"
    if peak.get("kind") != "muon":
        return rate
    return (
        f"--optimizer.kind muon {rate} --optimizer.matrix_learning_rate "
        f"{3 * float(peak.get('matrix_learning_rate') or 0):.2g}"
    )


def suggest_improvement(key: str, metrics: Sequence[Values]) -> str | None:
    """By the validations on the way: more rows where it began to overfit, longer where it still got
    better."""
    looks = _validations(key, metrics)
    if looks is None:
        return None
    if looks.overfits:
        return (
            f"more rows, or fewer epochs: it was best at step {looks.best_step:,} ({looks.best:.3f}) "
            f"and at {looks.last:.3f} at its end"
        )
    if looks.fall is None:
        return "longer: it was validated too few times to tell whether it still gets better"
    if looks.fall > FALLING:
        return (
            f"longer: validation still got better by {100 * looks.fall:.1f} % over the last part of the run"
        )
    return "more rows, or a larger base: validation has almost stopped getting better"


def _validations(key: str, metrics: Sequence[Values]) -> ValidationCurve | None:
    return validation_curve(metrics, key, higher_is_better=key not in ("val_loss", "val_bits_per_byte"))


def _overfit_after(key: str, metrics: Sequence[Values]) -> int | None:
    """The step after which it got worse; None where it did not."""
    found = _validations(key, metrics)
    return found.best_step if found is not None and found.overfits else None


def _perfect(key: str, summary: Values) -> bool:
    return key == "val_accuracy" and float(summary[key]) >= 1


def command(
    path: Path, config: Values, summary: Values, again: bool, overfit_after: int | None = None
) -> str:
    """The same data `again` with a sweep and more steps, a new run as long as was good, or the same run for
    longer."""
    train = config.get("train") or {}
    if not again and overfit_after is None:
        longer = (
            f"--time {advised_time(config, summary)}"
            if train.get("time")
            else f"--steps {2 * int(summary['steps'])}"
        )
        return f"newleaf finetune --resume {shlex.quote(str(path))} {longer}"
    data = config.get("source") or []
    words = [
        config.get("model", "MODEL"),
        *(data if len(data) <= 3 else ["DATA"]),
        "--task",
        config.get("task", "TASK"),
    ]
    lora = " --lora" if config.get("lora") else ""
    out = shlex.quote(f"{path}-2")
    if not again:
        return f"newleaf finetune {shlex.join(map(str, words))}{lora} --steps {overfit_after} --out {out}"
    length = (
        f"--time {3 * max(1, round(float(summary['total_seconds'])))}s"
        if train.get("time")
        else f"--steps {3 * int(summary['steps'])}"
    )
    return f"newleaf finetune {shlex.join(map(str, words))}{lora} {length} --sweep --out {out}"


def _score(key: str, summary: Values) -> str | None:
    """By which score this model and the baselines are compared; None where there are none."""
    report, baselines = summary.get("report"), summary.get("baselines")
    if not report or not baselines:
        return None
    wanted = key.removeprefix("val_")
    names = [wanted, *SCORES] if wanted in SCORES else SCORES
    return next(
        (name for name in names if name in report and all(name in scores for scores in baselines.values())),
        None,
    )
