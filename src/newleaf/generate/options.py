"""Sampling options: their types, defaults and checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

from newleaf.errors import InputError

# Which tokens are drawn again where they would make text that is not UTF-8: sampled ones; all (greedy
# and beams too); none.
ValidUtf8 = Literal["sampled", "always", "off"]
CONSTRAINTS = ("json_schema", "json_object", "regex", "grammar", "choice")


@dataclass(frozen=True)
class SamplingConfig:
    """How text is generated; checked on construction (InputError that names the option).

    docs/generation.md explains each option and the order in which they apply. A temperature of 0 is greedy:
    the likeliest token, after bias, penalties, bans and constraint. Ids are those of the model's tokenizer.
    """

    max_tokens: int = 100
    min_tokens: int = 0  # neither the end-of-text token nor a stop id before this many
    temperature: float = 0.8
    top_k: int = 0  # keep the k likeliest; 0 keeps all
    top_p: float = 1.0  # keep the smallest set of tokens whose probabilities reach p (Holtzman et al. 2020)
    min_p: float = 0.0  # keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)
    # keep the tokens whose information is nearest the entropy, up to this probability (Meister et al. 2023)
    typical_p: float = 1.0
    # divides positive logits of tokens in prompt and text, multiplies negative ones (Keskar et al. 2019)
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0  # subtracted for each time a token was generated, as OpenAI defines it
    presence_penalty: float = 0.0  # subtracted once if a token was generated, as OpenAI defines it
    no_repeat_ngram_size: int = 0  # generate no n-gram of this size twice
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # id → added to its logit
    banned_tokens: tuple[int, ...] = ()
    # position in the generated text, from 0 → id
    forced_tokens: Mapping[int, int] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    # classifier-free guidance away from `negative_prompt` (Sanchez et al. 2023); 1 is none
    guidance_scale: float = 1.0
    negative_prompt: str | None = None  # None: the prompt's last token alone
    json_schema: Any = None  # a schema as dictionary, true, false or JSON text
    json_object: bool = False
    regex: str | None = None
    grammar: str | None = None  # Lark, as llguidance reads it
    choice: tuple[str, ...] = ()
    n: int = 1
    best_of: int | None = None  # generate so many, keep the n with the highest mean log-probability
    beams: int = 1  # beam search when above 1
    length_penalty: float = 1.0  # beams are ranked by log-probability / length ** length_penalty
    # log-probabilities of the generated tokens, with so many alternatives for each
    logprobs: int | None = None
    prompt_logprobs: int | None = None  # the same for the prompt
    echo: bool = False  # the text begins with the prompt
    valid_utf8: ValidUtf8 = "sampled"
    # speculative decoding where a text repeats itself; changes no text
    speculation: Literal["auto", "off"] = "auto"
    truncate: Literal["left"] | None = None  # a prompt too long for the context is cut on the left
    seed: int | None = None

    def __post_init__(self) -> None:
        self._normalize()
        for name, least in (
            ("max_tokens", 1),
            ("n", 1),
            ("beams", 1),
            ("best_of", self.n),
            ("logprobs", 0),
            ("prompt_logprobs", 0),
        ):
            if getattr(self, name) is not None:
                self._at_least(name, least)
        for name in ("min_tokens", "temperature", "top_k", "no_repeat_ngram_size", "guidance_scale"):
            self._at_least(name, 0)
        for name in ("top_p", "typical_p"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}: must be above 0 and at most 1, not {getattr(self, name)}")
        if self.valid_utf8 not in get_args(ValidUtf8):
            raise InputError(
                f"valid_utf8: {self.valid_utf8!r} is not one of {', '.join(get_args(ValidUtf8))}"
            )
        if self.speculation not in ("auto", "off"):
            raise InputError(f"speculation: {self.speculation!r} is not one of auto, off")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p: must be between 0 and 1, not {self.min_p}")
        if not 0.01 <= self.repetition_penalty <= 100:  # beyond, logits may have no finite value
            raise InputError(
                f"repetition_penalty: must be between 0.01 and 100, not {self.repetition_penalty}"
            )
        for name in (
            "temperature",
            "frequency_penalty",
            "presence_penalty",
            "guidance_scale",
            "length_penalty",
        ):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name}: must be a finite number, not {getattr(self, name)}")
        self._check_combinations()

    @property
    def sequences(self) -> int:
        """Sequences for one prompt: beams or samples, and with guidance as many of the negative prompt."""
        texts = self.beams if self.beams > 1 else self.best_of or self.n
        return texts * (2 if self.guidance_scale != 1 else 1)

    def _normalize(self) -> None:
        check_stop_strings(self.stop)
        set_ = object.__setattr__  # how a frozen dataclass fills in its own fields
        set_(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if any(not text for text in self.stop):
            raise InputError("stop: every stop string must be text of at least one character")
        for name in ("stop_ids", "banned_tokens"):
            set_(self, name, tuple(_token_id(item, name) for item in getattr(self, name)))
        set_(self, "choice", tuple(self.choice))
        biases = {
            _token_id(token, "logit_bias"): _number(bias, "logit_bias")
            for token, bias in self.logit_bias.items()
        }
        set_(self, "logit_bias", biases)
        forced = {
            _token_id(place, "forced_tokens"): _token_id(token, "forced_tokens")
            for place, token in self.forced_tokens.items()
        }
        set_(self, "forced_tokens", forced)

    def _check_combinations(self) -> None:
        if len(self.constraints) > 1:
            raise InputError(
                f"{self.constraints[1]}: cannot be combined with {self.constraints[0]}; give one constraint"
            )
        if self.forced_tokens and self.constraints:
            raise InputError(f"forced_tokens: cannot be combined with {self.constraints[0]}")
        if self.min_tokens > self.max_tokens:
            raise InputError(
                f"min_tokens: {self.min_tokens} is more than max_tokens, which is {self.max_tokens}"
            )
        if self.negative_prompt is not None and self.guidance_scale == 1:
            raise InputError("negative_prompt: needs a guidance_scale above 1 (or below) to have an effect")
        if self.length_penalty != 1 and self.beams == 1:
            raise InputError("length_penalty: is for beam search; give beams too")
        if self.beams > 1:
            self._check_beams()

    def _check_beams(self) -> None:
        random = {
            "temperature": 0,
            "top_k": 0,
            "top_p": 1,
            "min_p": 0,
            "typical_p": 1,
            "best_of": None,
            "logprobs": None,
        }
        for name, off in random.items():
            if getattr(self, name) != off:
                raise InputError(
                    f"{name}: cannot be combined with beams, which take the likeliest texts (temperature=0, "
                    f"nothing drawn)"
                )
        if self.n > self.beams:
            raise InputError(f"n: {self.n} texts are more than the {self.beams} beams")

    def _at_least(self, name: str, least: int) -> None:
        if not getattr(self, name) >= least:  # written so that NaN fails too
            raise InputError(f"{name}: must be at least {least}, not {getattr(self, name)}")

    @property
    def constraints(self) -> list[str]:
        """The names of the constraints that are given."""
        return [
            name
            for name in CONSTRAINTS
            if getattr(self, name) not in (None, ()) and getattr(self, name) is not False
        ] + (["json_schema"] if self.json_schema is False else [])

    @property
    def ids(self) -> dict[str, list[int]]:
        """The token ids of each option that has some."""
        return {
            "logit_bias": list(self.logit_bias),
            "banned_tokens": list(self.banned_tokens),
            "forced_tokens": list(self.forced_tokens.values()),
            "stop_ids": list(self.stop_ids),
        }


class TextOptions(TypedDict, total=False):
    """Keywords for one text: the fields of `SamplingConfig` but `n`, with the types that it converts from."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    no_repeat_ngram_size: int
    logit_bias: Mapping[int, float]
    banned_tokens: Sequence[int]
    forced_tokens: Mapping[int, int]
    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    guidance_scale: float
    negative_prompt: str | None
    json_schema: Any
    json_object: bool
    regex: str | None
    grammar: str | None
    choice: Sequence[str]
    best_of: int | None
    beams: int
    length_penalty: float
    logprobs: int | None
    prompt_logprobs: int | None
    echo: bool
    valid_utf8: ValidUtf8
    speculation: Literal["auto", "off"]
    truncate: Literal["left"] | None
    seed: int | None


class SamplingOptions(TextOptions, total=False):
    """All fields of `SamplingConfig` as keywords, for `Unpack[SamplingOptions]`."""

    n: int


def sampling_config(
    options: Mapping[str, Any],
    config: SamplingConfig | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> SamplingConfig:
    """The `SamplingConfig` of these keywords, over `defaults`; or `config`, beside which there are none.

    Raises InputError for a keyword that does not exist (with the nearest that does) or has a wrong value.
    """
    from newleaf.recipe import build  # commands that only list options do without

    if config is not None:
        if options:
            raise InputError(f"{next(iter(options))}: is given beside a SamplingConfig; put it in there")
        return config
    check_stop_strings(options.get("stop", ()))
    # Beam search draws nothing, so its default is greedy; another temperature is refused.
    greedy = {"temperature": 0} if options.get("beams", 1) != 1 else {}
    return build(SamplingConfig, {**(defaults or {}), **greedy, **options})


def check_stop_strings(stop: Any) -> None:
    """Raises InputError unless `stop` is a text or a list of texts."""
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list | tuple) or any(not isinstance(text, str) for text in texts):
        raise InputError(f"stop: must be a text or a list of texts, not {stop!r}; token ids go into stop_ids")


def _token_id(value: Any, name: str) -> int:
    """A whole number from 0; JSON's keys are texts, and so are the command line's."""
    if (
        isinstance(value, bool)
        or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal()))
        or int(value) < 0
    ):
        raise InputError(f"{name}: {value!r} is not a whole number from 0")
    return int(value)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{name}: {value!r} is not a finite number; to forbid a token, name it in banned_tokens"
        )
    return number
