"""Files of {prompt, references}: summaries, translations, answers, replies, written and scored; with the
templates of GPT-2 and GPT-3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions
from newleaf.evaluation.statistics import Estimate
from newleaf.evaluation.task import CorpusMetric, Item, Marks, Metric, Setting, Task, TaskItems, limited
from newleaf.evaluation.task_rows import BadRowError, Row, first_rows, parse_each, read_rows
from newleaf.measure import text_metrics

MAX_TOKENS = 128
LOOKED_AT = 20  # rows that say of what kind a file is


@dataclass(frozen=True)
class Template:
    """How a prompt is asked, how an example that is solved is shown, what stands between examples, and where
    the answer ends."""

    ask: str
    solved: str
    between: str = "\n\n"
    stop: tuple[str, ...] = ("\n",)

    def prompt(self, text: str, examples: Sequence[tuple[str, str]]) -> str:
        shown = [self.solved.replace("{prompt}", own).replace("{answer}", answer) for own, answer in examples]
        return self.between.join([*shown, self.ask.replace("{prompt}", text)])


TEMPLATES = {
    "plain": Template("{prompt}", "{prompt}{answer}"),
    # GPT-2 (Radford et al. 2019): sections 3.6 (summaries induced by TL;DR:), 3.7 (translation as english =
    # french) and 3.8 (A:)
    "tldr": Template("{prompt}\nTL;DR:", "{prompt}\nTL;DR: {answer}", stop=("\n\n",)),
    "equals": Template("{prompt} =", "{prompt} = {answer}", "\n"),
    "answer": Template("{prompt}\nA:", "{prompt}\nA: {answer}"),
    # GPT-3 (Brown et al. 2020), appendix G: question and answer, and translation with arrows as in figure 2.1
    "question": Template("Q: {prompt}\nA:", "Q: {prompt}\nA: {answer}"),
    "arrow": Template("{prompt} =>", "{prompt} => {answer}", "\n"),
}


def is_generation_file(path: Path, encoding: str | None = None) -> bool:
    """Whether the first rows have prompts and references, or messages."""
    rows = first_rows(path, LOOKED_AT, encoding)
    return any({"prompt", "references"} <= row.fields.keys() or "messages" in row.fields for row in rows)


def generation_task(name: str, path: Path) -> Task:
    """The task of writing what a file's references say. --template names one of TEMPLATES, or is a text with
    {prompt} in it; --shots takes the file's first rows as examples and asks the others."""
    means = ("exact_match", "f1", "rouge1", "rouge2", "rougeL", "repetition")
    measures = (
        *(Metric(each, each, higher_is_better=each != "repetition") for each in means),
        Metric("consistency", "consistent", weight="checked"),
    )
    corpus = (
        CorpusMetric("bleu", lambda texts, references: _corpus("bleu", texts, references)),
        CorpusMetric("chrf", lambda texts, references: _corpus("chrf", texts, references)),
        *(_among(f"distinct_{n}", partial(text_metrics.distinct, n=n)) for n in (1, 2, 3)),
        _among("self_bleu", text_metrics.self_bleu, higher=False),
        _among("compression_ratio", text_metrics.compression_ratio, higher=False),
    )
    return Task(
        name,
        lambda setting: _questions(name, path, setting),
        _mark,
        measures,
        corpus,
        _generation_options,
        _check,
    )


def _corpus(name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Estimate:
    score, half = text_metrics.corpus_score(name, texts, references)
    return Estimate(score, half / 1.96, max(0.0, score - half), min(100.0, score + half), len(texts))


def _among(name: str, of: Callable[[Sequence[str]], float], higher: bool = True) -> CorpusMetric:
    """A score of texts among themselves, which has no interval: texts drawn twice would be alike."""

    def score(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Estimate:
        value = of(texts)
        return Estimate(value, 0.0, value, value, 1)

    return CorpusMetric(name, score, higher)


def _check(setting: Setting) -> None:
    _template(setting)


def _template(setting: Setting) -> Template:
    given = setting.template
    if given is None:
        return TEMPLATES["plain"]
    if given in TEMPLATES:
        return TEMPLATES[given]
    if "{prompt}" not in given:
        raise InputError(f"template: {given!r} is none of {', '.join(TEMPLATES)} and has no {{prompt}} in it")
    return Template(given, given + " {answer}")


def _generation_options(setting: Setting) -> GenerationOptions:
    return GenerationOptions(
        setting.max_tokens or MAX_TOKENS,
        _template(setting).stop,
        setting.temperature or 0.0,
        seed=setting.seed,
    )


def _questions(name: str, path: Path, setting: Setting) -> TaskItems:
    template, shots = _template(setting), setting.shots or 0
    rows, problems = read_rows(path, setting.data.encoding)
    pairs, bad = parse_each(rows, lambda row: (row, *_pair(row)))
    examples = [(prompt, references[0]) for _, prompt, references in pairs[:shots]]
    if len(pairs) <= shots:
        raise InputError(
            f"{name}: {shots} shots leave no row to ask; {path} has {len(pairs)} that can be used"
        )
    items = [
        Item(row.where, template.prompt(prompt, examples), references, {"source": prompt})
        for row, prompt, references in pairs[shots:][: len(limited(rows, setting))]
    ]
    return TaskItems(
        items, problems + bad, {"shots": shots, "file": str(path), "template": setting.template or "plain"}
    )


def _pair(row: Row) -> tuple[str, tuple[str, ...]]:
    """A row's prompt and references; of a conversation, all messages but the last, and the last."""
    if "messages" not in row.fields:
        return row.text("prompt"), row.texts("references") if isinstance(row.need("references"), list) else (
            row.text("references"),
        )
    messages = row.need("messages")
    if (
        not isinstance(messages, list)
        or len(messages) < 2
        or not all(isinstance(each, dict) and each.get("content") for each in messages)
    ):
        raise BadRowError("messages must be two or more, each with content")
    if messages[-1].get("role") != "assistant":
        raise BadRowError("the last of messages must be the assistant's, to compare with")
    names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    shown = [f"{names.get(str(each.get('role')), '')}{each['content']}" for each in messages[:-1]]
    return "\n".join([*shown, "Assistant:"]), (str(messages[-1]["content"]),)


def _mark(item: Item, answer: Sequence[str]) -> Marks:
    text, references = answer[0].strip(), item.gold
    found = text_metrics.consistency(text, str(item.fields["source"]))
    return {
        "exact_match": text_metrics.exact_match(text, references),
        "f1": text_metrics.f1(text, references),
        **text_metrics.rouge(text, references),
        "repetition": text_metrics.repetition(text),
        "consistent": found or 0.0,
        "checked": float(found is not None),
    }
