"""How a run ends: finished, with the figures of its best model; or asked to stop, with a checkpoint and something to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from newleaf.errors import DivergedError, InputError
from newleaf.version import VERSION

if TYPE_CHECKING:
    from newleaf.train.loop.session import Session
    from newleaf.train.objective.objective import Figures

STOP_SECONDS = 2.0  # for a validation after someone asked to stop


def leave(session: Session, look: bool) -> None:
    """Someone asked to stop: a checkpoint first; then, unless the training is over, a `look` at the network, so that there is a model/.

    What is found now is no part of the run: a resumed one forgets it, and has the best model that it would have had.
    """
    if session.loop.step == 0:
        session.monitor.say("Stopped before the first step; --resume begins it anew.")
        return
    if session.best.write_waiting() or session.best.waits_for == session.loop.step:
        session.save_checkpoint()
    figures = session.best.kept
    if look:
        figures = _provisional(session) or figures
    session.plot()
    if figures is not None:
        _write_summary(session, figures, finished=False)


def _provisional(session: Session) -> Figures | None:
    """Put the present weights into model/ where they are better than the best, or the first; as quickly as can be asked of a stop."""
    checks = session.checks
    if not checks.row_seconds:
        checks.look(1, to_the_end=True)
    affordable = max(1, int(STOP_SECONDS / max(checks.row_seconds, 1e-9)))
    if session.best.kept is not None and affordable < checks.rows:
        return None  # over fewer rows the figures could not be compared
    checks.rows = min(checks.rows, affordable)
    found = checks.look(checks.rows, to_the_end=True)
    checks.record(session.loop.step, found)
    checks.tell(session.loop.step, found)
    if session.best.waits_for is not None or not session.best.wanted(found, session.best.kept):
        return None
    if session.best.kept is not None:
        session.folder.set_best_aside()
    if not session.attempt("the model", session.save_model):
        session.folder.take_back_best()
        return None
    return session.figures(found)


def finish(session: Session) -> None:
    """The figures of the weights in model/ over the whole validation set, what the course has to report of them, and summary.json.

    While weights that belong there could not be written, the run is not finished.
    """
    if not session.best.write_waiting():
        _wait_for_room(session)
    if session.best.kept is None:
        raise DivergedError(
            f"{session.folder.path}: no validation had a finite loss, or {session.course.product}/ could not be written; see metrics.jsonl"
        )
    figures, examiner = dict(session.best.kept), session.checks.examiner
    if figures["step"] != session.loop.step:
        session.optimizer.take_weights(session.course.read_back(session.folder.product))
    if session.checks.looks_again:
        figures |= session.checks.closing_look()
    rows = session.checks.report_rows
    report = session.ranks.first(lambda: examiner.report(session.folder.path, rows)) if examiner.reports else {}
    session.plot()
    session.folder.metrics.flush()
    session.checkpoints.trim()  # a kill may have come before that
    _write_summary(session, figures, finished=True, report=report)


def _wait_for_room(session: Session) -> None:
    """Leave the run to be resumed. Raises InputError, which says why."""
    if session.best.kept is not None:
        session.attempt("summary.json", lambda: _write_summary(session, dict(session.best.kept or {}), finished=False))
    raise InputError(
        f"{session.folder.path}: {session.course.product}/ of step {session.best.waits_for} could not be written, so the run is not "
        f"finished; free some space, and --resume {session.folder.path} completes it"
    )


def _write_summary(session: Session, figures: Figures, finished: bool, report: dict[str, Any] | None = None) -> None:
    loop, health = session.loop, session.health
    found = {name: value for name, value in figures.items() if name != "step"}
    session.folder.write_summary(
        {
            "finished": finished,
            **dict(sorted(found.items(), key=lambda pair: pair[0] != session.course.measure.key)),
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
            **session.course.facts(loop.network),
            "resumed_from_step": session.resumed_from,
            "version": VERSION,
        }
    )


def _measured_on(session: Session) -> dict[str, Any]:
    """How many of the held-out rows the figures are of, where the time did not allow all of them."""
    checks = session.checks
    return {} if checks.sees_all else {"measured_on": {"rows": checks.closing_rows, "of": checks.examiner.all_rows}}
