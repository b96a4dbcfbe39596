"""Evaluating: tasks and files on a model that is open, on one that lies somewhere, or on an address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from newleaf.api.model import Model
from newleaf.api.opening import load
from newleaf.errors import InputError
from newleaf.evaluation.evaluate import evaluate as run_evaluation
from newleaf.evaluation.evaluate import find_jobs
from newleaf.evaluation.local import LocalSubject
from newleaf.evaluation.progress import Shown
from newleaf.evaluation.remote import RemoteSubject, is_address
from newleaf.evaluation.report import write_report
from newleaf.evaluation.result import Evaluation
from newleaf.evaluation.subject import Subject
from newleaf.evaluation.task import Setting
from newleaf.train.monitor import Monitor, Silent, pick_monitor

AnyModel = Model | str | Path


def evaluate(model: AnyModel, tasks: Sequence[str], data_dir: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Scores of a model (open, or the name of one, or an address) on tasks and files; the dictionary is that of results.json.

    `data_dir` is the folder of the tasks' files. Options are the command's: `limit`, `shots`, `out`, `against` (a second model),
    `allow_code_execution`, `samples`, `temperature`, `max_tokens`, `template`, `chat`, `stride`, `contamination` (training texts to look
    for the tasks' rows in), `seed`; `weights`, `device`, `threads`, `context` and `context_method` for models that are
    opened here; `quiet`.

    Raises InputError for what cannot be: a task that does not exist, a file without usable rows, an address that does not answer.
    """
    return evaluation(model, tasks, data_dir, **options).as_json()


def evaluation(
    model: AnyModel,
    tasks: Sequence[str],
    data_dir: str | Path | None = None,
    *,
    out: str | Path | None = None,
    against: AnyModel | None = None,
    contamination: Sequence[str] = (),
    allow_code_execution: bool = False,
    weights: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    context_method: Literal["yarn", "ntk"] | None = None,
    quiet: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Evaluation:
    """`evaluate` with everything that a report is made of."""
    try:
        setting = Setting(Path(data_dir) if data_dir is not None else None, allow_code=allow_code_execution, **options)
    except TypeError:
        known = [name for name in Setting.__dataclass_fields__ if name not in ("data_dir", "allow_code")]
        strange = [name for name in options if name not in known]
        raise InputError(f"evaluate: no such option {', '.join(strange)}; there are {', '.join(known)}") from None
    jobs = find_jobs(tasks, setting)
    opening = {"weights": weights, "device": device, "threads": threads, "context": context, "context_method": context_method}
    shown = monitor or (Silent() if quiet else pick_monitor())
    try:
        subject = _subject(model, setting, opening)
        other = _subject(against, setting, opening) if against is not None else None
        folder = Path(out) if out is not None else None
        found = run_evaluation(subject, jobs, setting, Shown(shown), folder, other, contamination)
    finally:
        if monitor is None:
            shown.close()
    if folder is not None:
        write_report(found, folder)
    return found


def _subject(model: AnyModel, setting: Setting, opening: dict[str, Any]) -> Subject:
    if isinstance(model, str) and is_address(model):
        if opening["context"] is not None:
            raise InputError("context: the model behind an address has the context that its server gave it")
        return RemoteSubject(model, chat=setting.chat)
    opened = model if isinstance(model, Model) else load(model, **opening)
    name = repr(opened) if isinstance(model, Model) else str(model)
    template = opened.chat_template if setting.chat else None
    return LocalSubject(opened.network, opened.tokenizer, name, opened.family, opened.end_ids, template, opened.cache)
