"""GSM8K: problems whose answer is written out, step by step, and read off the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions
from newleaf.evaluation.task import Item, Marks, Metric, Setting, Task, TaskItems, find_file, limited
from newleaf.evaluation.task_rows import BadRowError, Row, parse_each, read_rows

# The chain-of-thought examples of Wei et al. (2022, https://arxiv.org/abs/2201.11903, table 20), as the task
# is always asked.
EXAMPLES = (
    (
        "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are "
        "done, there "
        "will be 21 trees. How many trees did the grove workers plant today?",
        "There are 15 trees originally. Then there were 21 trees after some more were planted. So there "
        "must have been "
        "21 - 15 = 6. The answer is 6.",
    ),
    (
        "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking "
        "lot?",
        "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5.",
    ),
    (
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in "
        "total?",
        "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After "
        "eating 35, "
        "they had 74 - 35 = 39. The answer is 39.",
    ),
    (
        "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many "
        "lollipops did Jason give to Denny?",
        "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - "
        "12 = 8. The answer is 8.",
    ),
    (
        "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does "
        "he have now?",
        "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 "
        "+ 4 = 9. The answer is 9.",
    ),
    (
        "There were nine computers in the server room. Five more computers were installed each day, from "
        "monday to "
        "thursday. How many computers are now in the server room?",
        "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 "
        "computers "
        "were added. 9 + 20 is 29. The answer is 29.",
    ),
    (
        "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How "
        "many golf "
        "balls did he have at the end of wednesday?",
        "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing "
        "2 more, he "
        "had 35 - 2 = 33 golf balls. The answer is 33.",
    ),
    (
        "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 "
        "dollars "
        "left. 23 - 15 is 8. The answer is 8.",
    ),
)
STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
NOT_FOUND = "[invalid]"


def gsm8k(path: Path | None = None) -> Task:
    """GSM8K (Cobbe et al. 2021) with k-shot chain of thought. `exact_match` reads the number after "The
    answer is", `flexible_match` the last number of the text."""
    measures = (Metric("exact_match", "exact_match"), Metric("flexible_match", "flexible_match"))
    return Task(
        "gsm8k_cot", lambda setting: _questions(setting, path), _mark, measures, writing=_generation_options
    )


def _generation_options(setting: Setting) -> GenerationOptions:
    return GenerationOptions(
        setting.max_tokens or 256, ("Q:", "</s>", "<|im_end|>"), setting.temperature or 0.0, seed=setting.seed
    )


def _questions(setting: Setting, path: Path | None) -> TaskItems:
    shots = len(EXAMPLES) if setting.shots is None else setting.shots
    if not 0 <= shots <= len(EXAMPLES):
        raise InputError(f"shots: gsm8k_cot has {len(EXAMPLES)} examples, and {shots} were asked for")
    file = find_file("gsm8k_cot", setting, path or "gsm8k.jsonl")
    rows, problems = read_rows(file, setting.data.encoding)
    preamble = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in EXAMPLES[:shots])

    def item(row: Row) -> Item:
        answer = row.text("answer").split("####")
        if len(answer) < 2 or not answer[-1].strip():
            raise BadRowError("answer has no result after ####")
        return Item(row.where, f"{preamble}Q: {row.text('question')}\nA:", answer[-1].strip())

    items, bad = parse_each(limited(rows, setting), item)
    return TaskItems(items, problems + bad, {"shots": shots, "file": str(file)})


def _mark(item: Item, answer: Sequence[str]) -> Marks:
    (text,) = answer
    strict = STRICT.findall(text)
    flexible = FLEXIBLE.findall(text)
    last = next((each for each in flexible[-1] if each), NOT_FOUND) if flexible else NOT_FOUND
    found = {"exact_match": strict[0].strip() if strict else NOT_FOUND, "flexible_match": last.strip()}
    return {name: float(_plain(value) == _plain(item.gold)) for name, value in found.items()}


def _plain(answer: Any) -> str:
    """A number as people write it, without thousands' commas, dollars, and a full stop behind."""
    text = re.sub(r"(?s).*#### ", "", str(answer).replace(",", "").replace("$", ""))
    return re.sub(r"\.$", "", text).lower()
