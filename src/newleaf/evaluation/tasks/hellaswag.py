"""HellaSwag (Zellers et al. 2019): which ending continues a context."""

from __future__ import annotations

import re

from newleaf.evaluation.multiple_choice import Choice, ChoiceTask
from newleaf.evaluation.task_rows import Row


def hellaswag_text(text: str) -> str:
    """WikiHow's marks taken out, as the set is always scored: titles become full stops, other brackets go."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _hellaswag(row: Row) -> Choice:
    context = (
        f"{row.text('activity_label')}: {row.text('ctx_a')} {row.text('ctx_b', empty=True).capitalize()}"
    )
    endings = row.texts("endings")
    return Choice(
        hellaswag_text(context), tuple(map(hellaswag_text, endings)), row.one_of("label", len(endings))
    )


HELLASWAG = ChoiceTask(
    "hellaswag", "hellaswag.jsonl", _hellaswag, normalised=True, shots_file="hellaswag_train.jsonl"
)
