"""An open model as an `LM` of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions, RefusedRequest
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.result import Progress
from newleaf.measure.loglikelihood import Tree, score_trees
from newleaf.text.chat_template import ChatTemplate, RenderOptions

DEFAULT_MAX_TOKENS = 256
TOKEN_ALIASES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN_OPTIONS = {"until", "do_sample", "temperature", "top_p", "num_beams", *TOKEN_ALIASES}


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
