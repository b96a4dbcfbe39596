"""How a run ends: finished, with the metrics of its best model, or stopped, with a checkpoint and a model."""

from __future__ import annotations

from typing import Any

from newleaf.errors import DivergedError, InputError
from newleaf.train.loop.best_weights import BestWeights
from newleaf.train.loop.early_stopping import out_of_patience
from newleaf.train.loop.training_run import TrainingRun
from newleaf.train.objective.objective import ValidationMetrics
from newleaf.version import VERSION

STOP_SECONDS = 2.0  # for a validation after someone asked to stop


def stop(run: TrainingRun, best: BestWeights, validate: bool) -> None:
    """Leave a run that was asked to stop: a checkpoint, then, where `validate`, a model/ if there is none.

    What is found now is no part of the run: a resumed one forgets it, and has the best model that it would
    have had.
    """
    if run.state.step == 0:
        run.monitor.say("Stopped before the first step; --resume begins it anew.")
        return
    if best.save_unsaved() or best.unsaved_step == run.state.step:
        run.save_checkpoint()
    figures = run.state.best
    if validate:
        figures = _save_provisional(run, best) or figures
    run.plot()
    if figures is not None:
        _write_summary(run, figures, finished=False)


def _save_provisional(run: TrainingRun, best: BestWeights) -> ValidationMetrics | None:
    """Put the present weights into model/ where they are better than the best, or the first; quickly."""
    validation = run.validation
    if not validation.row_seconds:
        validation.validate(1, to_the_end=True)
    affordable = max(1, int(STOP_SECONDS / max(validation.row_seconds, 1e-9)))
    if run.state.best is not None and affordable < validation.rows:
        return None  # over fewer rows the figures could not be compared
    validation.rows = min(validation.rows, affordable)
    found = validation.validate(validation.rows, to_the_end=True)
    validation.record(run.state.step, found)
    validation.tell(run.state.step, found)
    if run.state.unsaved is not None or not best.replaces(found, run.state.best):
        return None
    if run.state.best is not None:
        run.folder.set_best_aside()
    if not run.attempt("the model", run.save_model):
        run.folder.restore_best()
        return None
    return run.with_step(found)


def finish(run: TrainingRun, best: BestWeights) -> None:
    """Validate the weights in model/ on all held-out rows, report on them, and write summary.json.

    While weights that belong there could not be written, the run is not finished.
    """
    if not best.save_unsaved():
        _leave_unfinished(run, best)
    if run.state.best is None:
        raise DivergedError(
            f"{run.folder.path}: no validation had a finite loss, or {run.objective.product}/ could not be "
            "written; see metrics.jsonl"
        )
    figures, evaluator = dict(run.state.best), run.validation.evaluator
    if figures["step"] != run.state.step:
        run.optimizer.take_weights(run.objective.read_back(run.folder.product))
    if run.validation.validates_at_end:
        figures |= run.validation.final_validation()
    rows = run.validation.report_rows
    report = {}
    if evaluator.reports:
        report = run.ranks.on_rank_zero(lambda: evaluator.report(run.folder.path, rows))
    run.plot()
    run.folder.metrics.flush()
    run.checkpoints.trim()  # a kill may have come before that
    _write_summary(run, figures, finished=True, report=report)


def _leave_unfinished(run: TrainingRun, best: BestWeights) -> None:
    """Leave the run to be resumed. Raises InputError, which says why."""
    if (found := run.state.best) is not None:
        run.attempt("summary.json", lambda: _write_summary(run, found, finished=False))
    raise InputError(
        f"{run.folder.path}: {run.objective.product}/ of step {best.unsaved_step} could not be written, so "
        f"the "
        f"run is not finished; free some space, and --resume {run.folder.path} completes it"
    )


def _write_summary(
    run: TrainingRun, figures: ValidationMetrics, finished: bool, report: dict[str, Any] | None = None
) -> None:
    state, health = run.state, run.health
    found = {name: value for name, value in figures.items() if name != "step"}
    run.folder.write_summary(
        {
            "finished": finished,
            **dict(sorted(found.items(), key=lambda pair: pair[0] != run.objective.measure.key)),
            **(_measured_on(run) if finished else {}),
            **(report or {}),
            "best_step": figures["step"],
            "steps": state.step,
            "stopped_early": finished and out_of_patience(run),
            "skipped_steps": health.skipped,
            "loss_spikes": health.spikes,
            "restored": health.restored,
            "tokens_seen": state.tokens,
            "train_seconds": round(state.seconds, 3),
            "total_seconds": round(run.total_seconds(), 3),
            "tokens_per_second": round(state.tokens / state.seconds, 1) if state.seconds > 0 else 0.0,
            **run.objective.facts(run.loop.network),
            "resumed_from_step": run.resumed_from,
            "version": VERSION,
        }
    )


def _measured_on(run: TrainingRun) -> dict[str, Any]:
    """How many of the held-out rows the figures are of, where the time did not allow all of them."""
    validation = run.validation
    if validation.covers_validation_set:
        return {}
    return {"measured_on": {"rows": validation.final_rows, "of": validation.evaluator.all_rows}}
