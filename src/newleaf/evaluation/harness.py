"""lm-evaluation-harness on newleaf's engine: the model as one of its `LM`s, and local files in the place of
Hub data sets.

The only file that imports lm_eval.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

try:
    import datasets
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
except ImportError as error:
    from newleaf.errors import InputError

    raise InputError(
        f"lm_eval: tasks with this name are lm-evaluation-harness's ({error}); run: pip install "
        f"'newleaf[eval]'"
    ) from None

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel, GenerationOptions, RefusedRequest
from newleaf.evaluation.journal import Sample, SampleLog
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.statistics import Estimate
from newleaf.evaluation.task import Item, Metric, Setting
from newleaf.measure.loglikelihood import Tree, score_trees
from newleaf.text.chat_template import ChatTemplate, RenderOptions

DEFAULT_MAX_TOKENS = 256
TOKEN_ALIASES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN_OPTIONS = {"until", "do_sample", "temperature", "top_p", "num_beams", *TOKEN_ALIASES}
FILES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
METRICS_WITH_CHANCE = ("acc", "acc_norm")  # scores that guessing reaches something of
READERS = {".jsonl": "json", ".gz": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


class NewleafLM(TemplateLM):  # type: ignore[misc]
    """An open model as an `LM` of the harness: `simple_evaluate(NewleafLM(subject), tasks=…)`.

    Control tokens in texts are read as such, since the harness renders chat templates to text; that is what
    its transformers back end does.
    """

    def __init__(self, subject: LocalModel, progress: Progress = lambda task, done, total: None) -> None:
        super().__init__()
        self.subject, self._progress = subject, progress
        self._backend = tokenizers.Tokenizer.from_str(subject.tokenizer.backend.to_str())
        self._backend.encode_special_tokens = False

    @property
    def eot_token_id(self) -> int:
        tokenizer = self.subject.tokenizer
        return tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.separator_id

    @property
    def prefix_token_id(self) -> int:
        return self.subject.tokenizer.separator_id

    @property
    def max_length(self) -> int:
        return self.subject.context_length

    @property
    def tokenizer_name(self) -> str:
        return self.subject.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        # a text that begins with the token that begins texts gets no second one
        if add_special_tokens is None:
            bos = self.subject.tokenizer.bos_id
            add_special_tokens = bos is None or not string.startswith(str(self._backend.id_to_token(bos)))
        return list(self._backend.encode(string, add_special_tokens=add_special_tokens).ids)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return ChatTemplate.of(self.subject.tokenizer).source() if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        how = RenderOptions(
            add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )
        return ChatTemplate.of(self.subject.tokenizer).render(chat_history, how)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Requests with one context are branches of one tree, as long as they fit with it."""
        limit, network = self.max_length, self.subject.scored
        together: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, own) in enumerate(requests):
            if not context or not own or len(own) > limit:
                raise InputError(
                    f"lm_eval: a context of {len(context)} and a continuation of {len(own)} tokens do not "
                    f"fit this model"
                )
            cut = tuple(context[max(0, len(context) + len(own) - limit - 1) :])
            together.setdefault(cut, []).append(number)
        trees = [
            Tree(context, [requests[number][2] for number in numbers])
            for context, numbers in together.items()
        ]
        owners = list(together.values())
        found: dict[int, tuple[float, bool]] = {}
        for place, scores in score_trees(network, trees):
            for number, score in zip(owners[place], scores, strict=True):
                found[number] = score.logprob, score.greedy
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], found[number])
            self._progress("log-likelihoods", len(found), len(requests))
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        parts: list[Tree] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            stream = [self.prefix_token_id, *self.tok_encode(request.args[0])]
            for trunk, own in _rolling_windows(stream, self.max_length):
                parts.append(Tree(trunk, [own]))
                owners.append(number)
        sums = [0.0] * len(requests)
        for done, (place, (score,)) in enumerate(score_trees(self.subject.scored, parts), 1):
            sums[owners[place]] += score.logprob
            self._progress("rolling log-likelihoods", done, len(parts))
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts: list[str] = [""] * len(requests)
        alike: dict[GenerationOptions, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(self._generation_options(dict(request.args[1])), []).append(number)
        done = 0
        for how, numbers in alike.items():
            ids = [self.tok_encode(requests[number].args[0]) for number in numbers]
            for place, found in self.subject.write_ids(ids, how):
                number = numbers[place]
                texts[number] = (
                    "" if isinstance(found, RefusedRequest) else _truncate_at_stop(found[0], how.stop)
                )
                self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                done += 1
                self._progress("writing", done, len(requests))
        return texts

    def _generation_options(self, options: dict[str, Any]) -> GenerationOptions:
        unknown = set(options) - KNOWN_OPTIONS
        if unknown or int(options.get("num_beams", 1)) != 1:
            raise InputError(
                f"lm_eval: generation options {', '.join(sorted(unknown or {'num_beams'}))} are not known "
                f"to newleaf"
            )
        until = options.get("until") or []
        stops = tuple(each for each in ([until] if isinstance(until, str) else until) if each)
        max_tokens = next(
            (int(options[name]) for name in TOKEN_ALIASES if options.get(name) is not None),
            DEFAULT_MAX_TOKENS,
        )
        temperature = float(options.get("temperature") or 0.0)
        sampled = bool(options.get("do_sample", temperature > 0))
        eos = str(self._backend.id_to_token(self.eot_token_id))
        temperature = (temperature or 1.0) if sampled else 0.0
        return GenerationOptions(
            max_tokens,
            (*stops, *([eos] if eos not in stops else [])),
            temperature,
            float(options.get("top_p", 1.0)),
        )


def _rolling_windows(stream: Sequence[int], length: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """The harness's windows: each predicts as many ids as the context holds, and the last one has as much
    before it as fits."""
    done, count = 0, len(stream) - 1
    while done < count:
        end = min(count, done + length)
        yield stream[max(0, end - length) : done + 1], stream[done + 1 : end + 1]
        done = end


def _truncate_at_stop(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


class _SplitsWithEmpty(datasets.DatasetDict):  # type: ignore[misc]
    """Splits that have no file are empty: the harness looks into a training split even where it takes no
    example from it."""

    def __missing__(self, name: str) -> Any:
        return next(iter(self.values())).select([])


@contextlib.contextmanager
def local_data(folder: Path | None) -> Iterator[None]:
    """Inside, what the harness asks of the Hub comes from files: owner/name as FOLDER/name/SPLIT.jsonl (or
    FOLDER/owner/name/…), with a configuration FOLDER/name/CONFIG/SPLIT.jsonl; .json, .csv and .parquet files
    too. Without a folder, the Hub and its cache are asked."""
    if folder is None:
        yield
        return
    theirs = datasets.load_dataset

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        files = _files(folder, path, name)
        split = options.get("split")
        kind = READERS[next(iter(files.values())).suffix]
        found = theirs(kind, data_files={each: str(file) for each, file in files.items()})
        return found[split] if split else _SplitsWithEmpty(found)

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = theirs


def _files(folder: Path, path: str, name: str | None) -> dict[str, Path]:
    """Each split's file. Raises InputError that says where they were looked for."""
    tried = []
    for part in (path, path.rpartition("/")[2]):
        place = (
            folder / part / name
            if name and name != "default" and (folder / part / name).is_dir()
            else folder / part
        )
        tried.append(str(place))
        if place.is_dir():
            found = {
                each.name.split(".")[0]: each for each in sorted(place.iterdir()) if each.name.endswith(FILES)
            }
            if found:
                return found
    raise InputError(
        f"lm_eval: the data set {path}{f', {name}' if name else ''} is not under --data-dir; looked for "
        f"{' and '.join(tried)}"
    )


@cache
def task_manager() -> Any:
    """The harness's list of tasks, which takes seconds to read."""
    return TaskManager()


def check_harness(name: str, setting: Setting) -> None:
    """Raises InputError when the harness has no task of this name, offering the nearest."""
    import difflib

    known = task_manager().all_tasks
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"lm_eval:{name}: lm-evaluation-harness has no such task"
            + (f"; did you mean lm_eval:{near[0]}?" if near else "")
        )


def run_harness(
    name: str, subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
) -> TaskResult:
    """The task as the harness runs it, with its samples in the journal. Raises InputError for an address (the
    harness has its own client), and for what the harness cannot do."""
    if not isinstance(subject, LocalModel):
        raise InputError(
            f"lm_eval:{name}: runs on a local model; for an address, use lm-evaluation-harness's own client "
            f"(local-completions)"
        )
    begun = time.monotonic()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with local_data(setting.data_dir):
        found: Any = simple_evaluate(
            NewleafLM(subject, lambda what, done, total: progress(f"{name}: {what}", done, total)),
            tasks=[name],
            num_fewshot=setting.shots,
            limit=setting.limit,
            apply_chat_template=setting.chat,
            bootstrap_iters=0,
            confirm_run_unsafe_code=setting.allow_code,
            log_samples=True,
            task_manager=task_manager(),
        )
    return _result(name, found, setting, journal, subject, time.monotonic() - begun)


def _result(
    name: str, found: Any, setting: Setting, journal: Path | None, subject: LocalModel, seconds: float
) -> TaskResult:
    groups = {
        task: _estimates(scores, len(found["samples"][task]))
        for task, scores in found["results"].items()
        if task in found["samples"]
    }
    whole = found["results"].get(name, {})
    count = sum(len(samples) for samples in found["samples"].values())
    scores = _estimates(whole, count) if name not in groups else groups.pop(name)
    items: list[Item] = []
    answers: list[Sample] = []
    for task, samples in found["samples"].items():
        for sample in samples:
            marks = {
                key: float(sample[key])
                for key in sample.get("metrics", [])
                if isinstance(sample.get(key), int | float)
            }
            first = sample["arguments"][0][0] if sample["arguments"] else ""
            items.append(
                Item(f"{task}:{sample['doc_id']}", str(first), sample["target"], group=task if groups else "")
            )
            answers.append(Sample(sample["filtered_resps"], marks))
    with SampleLog(journal, [subject.fingerprint, name, setting.shots]) as kept:
        kept.finish(items, answers)
    measures = tuple(Metric(key, key) for key in scores if all(key in each.marks for each in answers))
    chance = _chance(found, name)
    shots = next(iter(found.get("n-shot", {}).values()), setting.shots)
    versions = {
        "shots": shots,
        "harness": found.get("lm_eval_version") or _version(),
        "versions": found.get("versions", {}),
    }
    return TaskResult(
        name,
        scores,
        measures,
        groups,
        setting=versions,
        seconds=seconds,
        wheres=[item.where for item in items],
        marks=[each.marks for each in answers],
        asked=len(items),
        chance={score: chance for score in scores if score in METRICS_WITH_CHANCE and chance},
    )


def _chance(found: Any, name: str) -> float:
    """How often a guess is right where all answers are chosen from several, and 0 elsewhere."""
    configs = found.get("configs", {})
    if any(configs.get(task, {}).get("output_type") != "multiple_choice" for task in found["samples"]):
        return 0.0
    counts = [len(sample["arguments"]) for samples in found["samples"].values() for sample in samples]
    return sum(1 / count for count in counts if count) / max(1, len(counts))


def _estimates(scores: dict[str, Any], count: int) -> dict[str, Estimate]:
    """The harness's scores and standard errors, with the interval of a normal distribution."""
    found = {}
    for key, value in scores.items():
        metric, _, which = key.partition(",")
        if not isinstance(value, int | float) or "_stderr" in metric or not which:
            continue
        error = scores.get(f"{metric}_stderr,{which}")
        error = float(error) if isinstance(error, int | float) else 0.0
        label = metric if which == "none" else f"{metric}_{which}"
        found[label] = Estimate(
            float(value), error, float(value) - 1.96 * error, float(value) + 1.96 * error, count
        )
    return found


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


__all__ = ["NewleafLM", "check_harness", "local_data", "run_harness", "task_manager"]
