"""How a run ends: finished, with the figures of its best model; or asked to stop, with a checkpoint and
something to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from newleaf.errors import DivergedError, InputError
from newleaf.version import VERSION

if TYPE_CHECKING:
    from newleaf.train.loop.session import Session
    from newleaf.train.objective.objective import Figures

STOP_SECONDS = 2.0  # for a validation after someone asked to stop


def leave(session: Session, validate: bool) -> None:
    """Someone asked to stop: a checkpoint first; then, unless the training is over, a `validate` at the
    network, so that there is a model/.

    What is found now is no part of the run: a resumed one forgets it, and has the best model that it would
    have had.
    """
    if session.loop.step == 0:
        session.monitor.say("Stopped before the first step; --resume begins it anew.")
        return
    if session.best.write_unsaved() or session.best.unsaved_step == session.loop.step:
        session.save_checkpoint()
    figures = session.best.kept
    if validate:
        figures = _provisional(session) or figures
    session.plot()
    if figures is not None:
        _write_summary(session, figures, finished=False)


def _provisional(session: Session) -> Figures | None:
    """Put the present weights into model/ where they are better than the best, or the first; as quickly as
    can be asked of a stop."""
    validation = session.validation
    if not validation.row_seconds:
        validation.validate(1, to_the_end=True)
    affordable = max(1, int(STOP_SECONDS / max(validation.row_seconds, 1e-9)))
    if session.best.kept is not None and affordable < validation.rows:
        return None  # over fewer rows the figures could not be compared
    validation.rows = min(validation.rows, affordable)
    found = validation.validate(validation.rows, to_the_end=True)
    validation.record(session.loop.step, found)
    validation.tell(session.loop.step, found)
    if session.best.unsaved_step is not None or not session.best.wanted(found, session.best.kept):
        return None
    if session.best.kept is not None:
        session.folder.set_best_aside()
    if not session.attempt("the model", session.save_model):
        session.folder.take_back_best()
        return None
    return session.figures(found)


def finish(session: Session) -> None:
    """The figures of the weights in model/ over the whole validation set, what the objective has to report of
    them, and summary.json.

    While weights that belong there could not be written, the run is not finished.
    """
    if not session.best.write_unsaved():
        _wait_for_room(session)
    if session.best.kept is None:
        raise DivergedError(
            f"{session.folder.path}: no validation had a finite loss, or {session.objective.product}/ could "
            f"not be written; see "
            f"metrics.jsonl"
        )
    figures, evaluator = dict(session.best.kept), session.validation.evaluator
    if figures["step"] != session.loop.step:
        session.optimizer.take_weights(session.objective.read_back(session.folder.product))
    if session.validation.validates_at_end:
        figures |= session.validation.final_validation()
    rows = session.validation.report_rows
    report = (
        session.ranks.on_rank_zero(lambda: evaluator.report(session.folder.path, rows))
        if evaluator.reports
        else {}
    )
    session.plot()
    session.folder.metrics.flush()
    session.checkpoints.trim()  # a kill may have come before that
    _write_summary(session, figures, finished=True, report=report)


def _wait_for_room(session: Session) -> None:
    """Leave the run to be resumed. Raises InputError, which says why."""
    if session.best.kept is not None:
        session.attempt(
            "summary.json", lambda: _write_summary(session, dict(session.best.kept or {}), finished=False)
        )
    raise InputError(
        f"{session.folder.path}: {session.objective.product}/ of step {session.best.unsaved_step} could not "
        f"be written, so the run is not "
        f"finished; free some space, and --resume {session.folder.path} completes it"
    )


def _write_summary(
    session: Session, figures: Figures, finished: bool, report: dict[str, Any] | None = None
) -> None:
    loop, health = session.loop, session.health
    found = {name: value for name, value in figures.items() if name != "step"}
    session.folder.write_summary(
        {
            "finished": finished,
            **dict(sorted(found.items(), key=lambda pair: pair[0] != session.objective.measure.key)),
            **(_measured_on(session) if finished else {}),
            **(report or {}),
            "best_step": figures["step"],
            "steps": loop.step,
            "stopped_early": finished and session.out_of_patience(),
            "skipped_steps": health.skipped,
            "loss_spikes": health.spikes,
            "restored": health.restored,
            "tokens_seen": loop.tokens,
            "train_seconds": round(loop.seconds, 3),
            "total_seconds": round(session.total_seconds(), 3),
            "tokens_per_second": round(loop.tokens / loop.seconds, 1) if loop.seconds > 0 else 0.0,
            **session.objective.facts(loop.network),
            "resumed_from_step": session.resumed_from,
            "version": VERSION,
        }
    )


def _measured_on(session: Session) -> dict[str, Any]:
    """How many of the held-out rows the figures are of, where the time did not allow all of them."""
    validation = session.validation
    return (
        {}
        if validation.covers_validation_set
        else {"measured_on": {"rows": validation.closing_rows, "of": validation.evaluator.all_rows}}
    )
