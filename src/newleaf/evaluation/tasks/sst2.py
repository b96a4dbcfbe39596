"""SST-2 (Socher et al. 2013): whether a sentence is positive or negative."""

from __future__ import annotations

from newleaf.evaluation.multiple_choice import Choice, ChoiceTask
from newleaf.evaluation.task_rows import Row


def _sst2(row: Row) -> Choice:
    prompt = f"{row.text('text')}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    return Choice(prompt, ("negative", "positive"), row.one_of("label", 2))


SST2 = ChoiceTask("sst2", "sst2.jsonl", _sst2, shots_file="sst2_train.jsonl")
