"""How a run ends: finished, with the figures of its best model; or asked to stop, with a checkpoint and something to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from newleaf.errors import InputError
from newleaf.families import family_for
from newleaf.storage.folder import load_folder
from newleaf.version import VERSION

if TYPE_CHECKING:
    from newleaf.train.session import Session

STOP_SECONDS = 2.0  # for a validation after someone asked to stop


def leave(session: Session, look: bool) -> None:
    """Someone asked to stop: a checkpoint first; then, unless the training is over, a `look` at the network, so that there is a model/.

    What is found now is no part of the run: a resumed one forgets it, and has the best model that it would have had.
    """
    if session.loop.step == 0:
        session.monitor.say("Stopped before the first step; --resume begins it anew.")
        return
    session.save_checkpoint()
    figures = session.best
    if look:
        figures = _provisional(session) or figures
    session.plot()
    if figures is not None:
        _write_summary(session, figures, finished=False)


def _provisional(session: Session) -> dict[str, float] | None:
    """Put the present weights into model/ where they are better than the best, or the first; as quickly as can be asked of a stop."""
    if not session.examiner.window_seconds:
        session.examiner.validate(1, to_the_end=True)
    affordable = max(1, int(STOP_SECONDS / session.examiner.window_seconds))
    if session.best is not None and affordable < session.windows:
        return None  # over fewer windows the figures could not be compared
    session.windows = min(session.windows, affordable)
    found = session.examiner.validate(session.windows, to_the_end=True)
    session.record_validation(found)
    session.monitor.validation(session.loop.step, found.bits_per_byte)
    if not session.is_best(found):
        return None
    if session.best is not None:
        session.folder.set_best_aside()
    if not session.attempt("the model", session.save_model):
        session.folder.take_back_best()
        return None
    return session.figures(found)


def finish(session: Session) -> None:
    """The figures of model/ over the whole validation text, and summary.json."""
    if session.best is None:
        raise InputError(f"{session.folder.path}: no validation had a finite loss, or model/ could not be written; see metrics.jsonl")
    figures = dict(session.best)
    if figures["step"] != session.loop.step:
        session.optimizer.take_weights(load_folder(session.folder.model).network.state_dict())
    if session.windows < session.examiner.all_windows:
        found = session.examiner.validate(None)
        figures |= {"val_bits_per_byte": found.bits_per_byte, "val_loss": found.per_token}
    session.plot()
    session.folder.metrics.flush()
    session.checkpoints.trim()  # a kill may have come before that
    _write_summary(session, figures, finished=True)


def _write_summary(session: Session, figures: dict[str, float], finished: bool) -> None:
    family, loop, health = family_for(session.prepared.network), session.loop, session.health
    session.folder.write_summary(
        {
            "finished": finished,
            "val_bits_per_byte": figures["val_bits_per_byte"],
            "val_loss": figures["val_loss"],
            "best_step": figures["step"],
            "steps": loop.step,
            "stopped_early": finished and session.out_of_patience(),
            "skipped_steps": health.skipped,
            "loss_spikes": health.spikes,
            "restored": health.restored,
            "tokens_seen": loop.tokens,
            "train_seconds": round(loop.seconds, 3),
            "total_seconds": round(session.total_seconds(), 3),
            "tokens_per_second": round(loop.tokens / max(loop.seconds, 1e-9), 1),
            "parameters": loop.network.parameter_count(),
            "family": family.name if family else "newleaf",
            "resumed_from_step": session.resumed_from,
            "version": VERSION,
        }
    )
