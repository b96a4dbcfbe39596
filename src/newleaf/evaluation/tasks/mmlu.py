"""MMLU (Hendrycks et al. 2021): four choices by letter, in 57 subjects."""

from __future__ import annotations

from newleaf.evaluation.multiple_choice import Choice, ChoiceTask
from newleaf.evaluation.task_rows import BadRowError, Row


def _mmlu(row: Row) -> Choice:
    choices = row.texts("choices")
    if len(choices) != 4:
        raise BadRowError(f"choices must be four, not {len(choices)}")
    listed = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", choices, strict=True))
    prompt = f"{row.text('question').strip()}\n{listed}Answer:"
    return Choice(prompt, tuple("ABCD"), row.one_of("answer", 4), row.text("subject"))


def _mmlu_heading(subject: str) -> str:
    return (
        f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    )


MMLU = ChoiceTask("mmlu", "mmlu_test.jsonl", _mmlu, shots_file="mmlu_dev.jsonl", heading=_mmlu_heading)
