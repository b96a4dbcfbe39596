"""ARC-Easy (Clark et al. 2018): which answer to a science question is right."""

from __future__ import annotations

from newleaf.evaluation.multiple_choice import Choice, ChoiceTask
from newleaf.evaluation.task_rows import BadRowError, Row


def _arc(row: Row) -> Choice:
    choices, labels = row.texts("choices"), row.texts("labels")
    answer = row.need("answer")
    if len(labels) != len(choices):
        raise BadRowError(f"has {len(choices)} choices and {len(labels)} labels")
    if not isinstance(answer, str) or labels.count(answer) != 1:
        raise BadRowError(f"answer must be one of the labels {', '.join(labels)}, not {answer!r}")
    return Choice(f"Question: {row.text('question')}\nAnswer:", choices, labels.index(answer))


ARC_EASY = ChoiceTask("arc_easy", "arc_easy.jsonl", _arc, normalised=True, shots_file="arc_easy_train.jsonl")
