"""Automatic sizes: layers, width, vocabulary, batch size and learning rates from a text and a budget.

The figures behind each constant stand in docs/lab-notes.md.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from newleaf.errors import InputError
from newleaf.format_amounts import byte_size, counted

# Layers, width, heads of new models, smallest first.
MODEL_SIZES = (
    (3, 64, 1), (4, 128, 2), (4, 160, 2), (4, 192, 3), (5, 224, 4), (6, 256, 4), (6, 320, 5), (6, 384, 6),
    (8, 448, 7), (8, 512, 8), (10, 640, 10), (12, 768, 12), (16, 1024, 16),
)  # fmt: skip
# seconds of a command that are not training: imports, tokenizer, the looks at the held-out text
STARTUP_SECONDS = 10.0
# Of the machine's matrix speed, what training turns into six FLOPs per weight and token; small models mostly
# wait for other things.
USEFUL_SHARE = 0.3
# in the blocks' matrices: half and twice as many cost little, but far too few steps cost much
TOKENS_PER_WEIGHT = 3.5
WEIGHTS_PER_BYTE = 3.0  # more than this only learns a small text by heart
# Fewer steps learn more at higher rates, by a power of how many fewer they are; AdamW's, which are the
# embedding's, also rise as the
# network gets narrower. In multiples of the usual rates, which are the least.
REFERENCE_STEPS, REFERENCE_WIDTH = 1200, 128
ADAMW_RATE, ADAMW_POWER, MAX_ADAMW = 2.0, 0.5, 15.0
MUON_POWER, MAX_MUON = 0.25, 2.0
EPOCHS_WITHOUT_DROPOUT = 6.0  # dropout costs more than it saves while the text is read so few times
DROPOUT_PER_EPOCH, MAX_DROPOUT = 0.02, 0.2  # for each time more
BYTES_PER_TOKEN = 3.2  # of small vocabularies, roughly
MAX_TEXT_FACTOR = 1.25  # times the text that the time is expected to be enough for
ENCODED_BYTES_PER_SECOND = 50_000  # bytes, for each second of the time: encoding these takes a fiftieth of it
# bytes that the tokenizer sees, for each second of the time: learning from them takes two to six hundredths
# of it
TOKENIZER_BYTES_PER_SECOND = 40_000
MIN_TOKENIZER_BYTES = 1_500_000
VALIDATION_SHARE = 0.1  # of what is read: validating on it takes about a thirtieth of the time
MIN_VALIDATION_BYTES = 1_000_000  # bytes of held-out text, where a minute is given
STEP_TOKENS = 2048
HEAD_DIM = 64


@dataclass(frozen=True)
class Budget:
    """What a run may spend, in one of four ways: wall-clock seconds on a machine of `matrix_speed` FLOP/s,
    bytes, tokens, or steps."""

    seconds: float | None = None
    matrix_speed: float = 0.0
    bytes: float | None = None
    tokens: float | None = None
    steps: float | None = None


@dataclass(frozen=True)
class Reason:
    """A sentence about one choice.

    `fields` are those of the network that it is true of, `about` what else it speaks of.
    """

    text: str
    fields: tuple[str, ...] = ()
    about: Literal["", "vocabulary", "rates"] = ""


@dataclass(frozen=True)
class SizeChoice:
    """What the dial chose: fields of GPTConfig, vocabulary, windows in a step, what the usual learning rates
    are multiplied by (AdamW's, Muon's); and why, in words for people."""

    vocab_size: int
    model: dict[str, Any]
    batch_size: int
    rates: tuple[float, float]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class DataBudget:
    """Bytes of text to learn, of held-out text and of text for the tokenizer.

    More would cost time: for learning the tokenizer, for turning text into tokens, for the last validation.
    """

    train: int
    validation: int
    tokenizer: int


def choose_size(text_bytes: int, budget: Budget, size: str | None = None, characters: int = 0) -> SizeChoice:
    """A shape for a new model on `text_bytes` of training text.

    Depends on nothing else: not on a name, not on validation text.

    `characters` is how many tokens the text's characters want, where it has many: the vocabulary has about as
    many. `size` fixes layers and width, as 6x384, or how many weights the matrices have together, as 2m; the
    rest is chosen for it. Raises InputError for a size that is neither.
    """
    used = (
        text_bytes
        if budget.seconds is None
        else min(text_bytes, 3 * ENCODED_BYTES_PER_SECOND * budget.seconds)
    )
    usual = _vocabulary(used)
    vocabulary = max(usual, _power(characters)) if characters else usual
    (n_layer, n_embd, n_head), why = (
        _size_for_budget(text_bytes, budget, vocabulary) if size is None else (parse_size(size), "as asked")
    )
    tokens = _tokens(budget, _weights(n_layer, n_embd, vocabulary))
    epochs = tokens * BYTES_PER_TOKEN / max(1, text_bytes)
    dropout = round(min(max(0.0, DROPOUT_PER_EPOCH * (epochs - EPOCHS_WITHOUT_DROPOUT)), MAX_DROPOUT), 2)
    context = 128 if n_embd <= 224 else 256
    model = {
        "context_length": context, "n_layer": n_layer, "n_embd": n_embd, "n_head": n_head,
        "head_dim": n_embd // n_head, "n_inner": _inner(n_embd), "norm": "rms_norm", "norm_eps": 1e-6,
        "qk_norm": True, "positions": "rotary", "activation": "silu", "gated": True, "attention_bias": False,
        "attention_out_bias": False, "feedforward_bias": False, "tie_embeddings": True, "init": "fan_in",
        "embedding_dropout": dropout, "residual_dropout": dropout,
    }  # fmt: skip
    steps = max(1.0, tokens / STEP_TOKENS)
    adamw, muon = rates = _rates(steps, n_embd)
    reasons = [
        Reason(f"Size: {counted(n_layer, 'layer')} × {n_embd} ({why}).", ("n_layer", "n_embd")),
        Reason(
            f"Vocabulary: {vocabulary:,} tokens for {byte_size(used)} of "
            f"text{' and its characters' * (vocabulary > usual)}.",
            about="vocabulary",
        ),
    ]
    if dropout:
        reasons.append(
            Reason(
                f"Dropout {dropout:g}: the text is read about {counted(epochs, 'time')}.",
                ("embedding_dropout", "residual_dropout"),
            )
        )
    if max(rates) > 1:
        text = (
            f"Learning rates: AdamW's × {adamw:g}, Muon's × {muon:g}, for about "
            f"{counted(steps, 'step')} of a network {n_embd} wide."
        )
        reasons.append(Reason(text, ("n_embd",), "rates"))
    return SizeChoice(vocabulary, model, STEP_TOKENS // context, rates, tuple(reasons))


def data_budget(budget: Budget, n_layer: int, n_embd: int, vocab_size: int) -> DataBudget | None:
    """How much text a timed run has use for with a network of this size; None where no clock limits it."""
    if budget.seconds is None:
        return None
    tokens = _tokens(budget, max(1, _weights(n_layer, n_embd, vocab_size)))
    read = max(MAX_TEXT_FACTOR * tokens * BYTES_PER_TOKEN, ENCODED_BYTES_PER_SECOND * budget.seconds)
    sample = max(TOKENIZER_BYTES_PER_SECOND * budget.seconds, MIN_TOKENIZER_BYTES)
    held_out = max(VALIDATION_SHARE * read, MIN_VALIDATION_BYTES * min(1.0, budget.seconds / 60))
    return DataBudget(int(read), int(held_out), int(min(read, sample)))


def parse_size(size: str) -> tuple[int, int, int]:
    """Layers, width and heads of 6x384, or of the rung that comes nearest to 2m weights.

    Raises InputError.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([kmb])", size.strip().lower()):
        weights = float(match[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[match[2]]
        if weights > 0:
            return _nearest_size(weights)
    match = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", size.strip().lower())
    n_layer, n_embd = (int(match[1]), int(match[2])) if match else (0, 0)
    if not n_layer or not n_embd or n_embd % 2:
        raise InputError(
            f"size: {size!r} is neither layers × an even width, such as 6x384, nor a number of weights, "
            f"such as 2m"
        )
    for rung in MODEL_SIZES:
        if rung[:2] == (n_layer, n_embd):
            return rung
    heads = max(1, round(n_embd / HEAD_DIM))
    return n_layer, n_embd, next(count for count in range(heads, 0, -1) if n_embd % (2 * count) == 0)


def _nearest_size(weights: float) -> tuple[int, int, int]:
    """The step of the ladder that comes nearest to so many weights in matrices."""
    return min(MODEL_SIZES, key=lambda rung: abs(math.log(_matrix_weights(rung[0], rung[1]) / weights)))


def _size_for_budget(text_bytes: int, budget: Budget, vocabulary: int) -> tuple[tuple[int, int, int], str]:
    """The step of the ladder that the budget trains best, or the one that the text is enough for; and why."""
    enough = _nearest_size(WEIGHTS_PER_BYTE * text_bytes)
    if budget.seconds is None:
        tokens = _tokens(budget, 0)
        found, why = _nearest_size(tokens / TOKENS_PER_WEIGHT), f"{tokens / 1e6:.2g} M tokens to read"
    else:
        # Tokens are FLOPs / 6 (matrices + head), and TOKENS_PER_WEIGHT × matrices.
        product = _flops(budget) / (6 * TOKENS_PER_WEIGHT)
        found = min(
            MODEL_SIZES,
            key=lambda rung: abs(
                math.log(_matrix_weights(rung[0], rung[1]) * _weights(rung[0], rung[1], vocabulary) / product)
            ),
        )
        why = (
            f"{budget.seconds:.0f} s on a machine that multiplies matrices at "
            f"{budget.matrix_speed / 1e9:.0f} GFLOP/s"
        )
    if _matrix_weights(found[0], found[1]) > _matrix_weights(enough[0], enough[1]):
        return enough, f"{byte_size(text_bytes)} of text is enough for no more"
    return found, why


def _rates(steps: float, n_embd: int) -> tuple[float, float]:
    """What AdamW's and Muon's usual rates are multiplied by."""
    fewer = REFERENCE_STEPS / steps
    adamw, muon = ADAMW_RATE * fewer**ADAMW_POWER * REFERENCE_WIDTH / n_embd, fewer**MUON_POWER
    return round(min(max(1.0, adamw), MAX_ADAMW), 1), round(min(max(1.0, muon), MAX_MUON), 1)


def _tokens(budget: Budget, weights: int) -> float:
    """How many tokens a network will read that multiplies with so many weights."""
    if budget.seconds is not None:
        return _flops(budget) / (6 * weights)
    return budget.tokens or (budget.steps or 0) * STEP_TOKENS or (budget.bytes or 0) / BYTES_PER_TOKEN


def _flops(budget: Budget) -> float:
    """What the clock leaves of them for training."""
    seconds = budget.seconds or 0.0
    return USEFUL_SHARE * budget.matrix_speed * max(seconds / 2, seconds - STARTUP_SECONDS)


def _weights(n_layer: int, n_embd: int, vocabulary: int) -> int:
    """With the head's."""
    return _matrix_weights(n_layer, n_embd) + vocabulary * n_embd


def _matrix_weights(n_layer: int, n_embd: int) -> int:
    return n_layer * n_embd * (4 * n_embd + 3 * _inner(n_embd))


def _inner(n_embd: int) -> int:
    """Feed-forward width: 8/3 of the width, as SwiGLU has it, rounded up to a multiple of 64."""
    return -(-8 * n_embd // (3 * 64)) * 64


def _vocabulary(text_bytes: float) -> int:
    """The power of two nearest to 1.6 times the square root of the text's bytes: 2,048 for a megabyte, 4,096
    for six."""
    return max(_power(1.6 * math.sqrt(max(1, text_bytes))), 512)


def _power(tokens: float) -> int:
    return min(1 << round(math.log2(max(1, tokens))), 32_768)
