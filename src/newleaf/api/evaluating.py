"""Evaluating: tasks and files on a model that is open, on one that lies somewhere, or on an address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from newleaf.api.model import Model
from newleaf.api.opening import load_for_text
from newleaf.errors import InputError
from newleaf.evaluation.classifier_evaluation import LabelModelAdapter
from newleaf.evaluation.evaluated_model import EvaluatedModel
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.progress import Shown
from newleaf.evaluation.remote_model import RemoteSubject, is_address
from newleaf.evaluation.report import write_report
from newleaf.evaluation.result import Evaluation
from newleaf.evaluation.run_evaluation import evaluate as run_evaluation
from newleaf.evaluation.run_evaluation import find_jobs
from newleaf.evaluation.task import Setting
from newleaf.evaluation.train_test_overlap import own_text_notes
from newleaf.recipe import check_names
from newleaf.storage.adapter_folder import means_adapter
from newleaf.storage.hub import MODEL_FILES
from newleaf.storage.model_folder import is_classifier, read_config
from newleaf.storage.resolve_model import is_gguf, resolve_model
from newleaf.text.tokenizer import Tokenizer
from newleaf.train.display.monitor import Monitor, SilentMonitor, pick_monitor

AnyModel = Model | str | Path


def evaluate(
    model: AnyModel, tasks: Sequence[str], data_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Scores of a model (open, or the name of one, or an address) on tasks and files; the dictionary is that
    of results.json.

    `data_dir` is the folder of the tasks' files. Options are the command's: `limit`, `shots`, `out`,
    `against` (a second model), `allow_code_execution`, `samples`, `temperature`, `max_tokens`, `template`,
    `chat`, `stride`, `contamination` (training texts to look for the tasks' rows in), `seed`; `weights`,
    `device`, `threads`, `context`, `context_method` and `tokenizer` for models that are opened here; `quiet`.

    Raises InputError for what cannot be: a task that does not exist, a file without usable rows, an address
    that does not answer.
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
    tokenizer: str | Path | Tokenizer | None = None,
    quiet: bool = False,
    monitor: Monitor | None = None,
    **options: Any,
) -> Evaluation:
    """`evaluate` with everything that a report is made of."""
    check_names(
        options, [name for name in Setting.__dataclass_fields__ if name not in ("data_dir", "allow_code")]
    )
    folder_of_data = Path(data_dir) if data_dir is not None else None
    setting = Setting(folder_of_data, allow_code=allow_code_execution, **options)
    opening = {
        "weights": weights,
        "device": device,
        "threads": threads,
        "context": context,
        "context_method": context_method,
    }
    # The tokenizer is that of `model`; the other model has its own.
    openings: list[dict[str, Any]] = [opening | {"tokenizer": tokenizer}, opening]
    models = [_peeked(each, how) for each, how in zip((model, against), openings) if each is not None]
    labels = [_gives_labels(each) for _, each in models]
    if len(set(labels)) > 1:
        raise InputError(
            f"against: {models[1][0]} {'gives labels' if labels[1] else 'writes text'}, and {models[0][0]} "
            f"does not"
        )
    jobs = find_jobs(tasks, setting, labels[0])
    shown = monitor or (SilentMonitor() if quiet else pick_monitor())
    try:
        subject, *others = [_subject(*each, setting, how) for each, how in zip(models, openings)]
        other = others[0] if others else None
        folder = Path(out) if out is not None else None
        notes = [
            note
            for name, each in models
            if not isinstance(each, Model)
            for note in own_text_notes(name, tasks)
        ]
        found = run_evaluation(subject, jobs, setting, Shown(shown), folder, other, contamination)
    finally:
        if monitor is None:
            shown.close()
    found = replace(found, notes=[*notes, *found.notes])
    if folder is not None:
        write_report(found, folder)
    return found


def _peeked(model: AnyModel, opening: dict[str, Any]) -> tuple[str, AnyModel]:
    """Its name, and what it is; an adapter opened, since only then it is known what it makes."""
    if isinstance(model, Model):
        return repr(model), model
    return str(model), load_for_text(model, **opening) if not is_address(str(model)) and means_adapter(
        model
    ) else model


def _gives_labels(model: AnyModel) -> bool:
    """Whether this is a classifier, from its config.json alone. Raises InputError where there is no such
    model."""
    if isinstance(model, Model):
        return model.labels is not None
    if is_address(str(model)) or is_gguf(model):
        return False
    return is_classifier(read_config(resolve_model(model, MODEL_FILES)))


def _subject(name: str, model: AnyModel, setting: Setting, opening: dict[str, Any]) -> EvaluatedModel:
    if isinstance(model, str) and is_address(model):
        for option in ("context", "tokenizer"):
            if opening.get(option) is not None:
                raise InputError(f"{option}: the model behind an address has the {option} of its server")
        return RemoteSubject(model, chat=setting.chat)
    opened = model if isinstance(model, Model) else load_for_text(model, **opening)
    if opened.labels is not None:
        return LabelModelAdapter(opened.labels, name, opened.family)
    template = opened.chat_template if setting.chat else None
    return LocalModel(
        opened.network, opened.tokenizer, name, opened.family, opened.end_ids, template, opened.cache
    )
