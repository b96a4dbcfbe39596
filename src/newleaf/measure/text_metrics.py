"""How good, how varied and how faithful written texts are: scores of texts against references, of texts among
themselves, and against their source. BLEU and chrF are sacrebleu's, ROUGE is rouge-score's; the rest are a
few lines each."""

from __future__ import annotations

import re
import string
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from newleaf.errors import InputError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

MISSING = "needs the packages of an extra; run: pip install 'newleaf[eval]'"
ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeL"}
SELF_BLEU_TEXTS = 100  # each is compared with all others, so only so many are
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"


def words(text: str) -> list[str]:
    """Words in lower case; each Chinese or Japanese character is one."""
    return re.findall(rf"[{_CJK}]|[^\W_{_CJK}]+", text.lower())


def normalised(text: str) -> str:
    """As SQuAD compares answers (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single
    spaces."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 where the text is one of the references, compared as SQuAD does."""
    return float(any(normalised(text) == normalised(reference) for reference in references))


def f1(text: str, references: Sequence[str]) -> float:
    """The best overlap with a reference, as SQuAD's F1 over words (characters of Chinese and Japanese)."""
    return max(_f1(words(normalised(text)), words(normalised(reference))) for reference in references)


def _f1(own: list[str], wanted: list[str]) -> float:
    common = sum((Counter(own) & Counter(wanted)).values())
    if not own or not wanted:
        return float(own == wanted)
    return 2 * common / (len(own) + len(wanted))


def rouge(text: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L F-measures (Lin 2004), the best over the references; words are stemmed, Chinese
    characters are words."""
    scorer = _scorer()
    found = [scorer.score(reference, text) for reference in references]
    return {name: max(float(each[kind].fmeasure) for each in found) for name, kind in ROUGE.items()}


@cache
def _scorer() -> RougeScorer:
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError:
        raise InputError(f"rouge: {MISSING}") from None

    class Both(DefaultTokenizer):  # type: ignore[misc]
        """rouge-score's own words for text in Latin letters; others, which it would drop, as `words` cuts
        them."""

        def tokenize(self, text: str) -> list[str]:
            return list(super().tokenize(text)) if text.isascii() else words(text)

    return RougeScorer(list(ROUGE.values()), use_stemmer=True, tokenizer=Both(use_stemmer=True))


def corpus_score(
    name: str, texts: Sequence[str], references: Sequence[Sequence[str]], resamples: int = 1000
) -> tuple[float, float]:
    """Corpus BLEU (Papineni et al. 2002) or chrF (Popović 2015) by sacrebleu, and half the width of its 95 %
    bootstrap interval."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise InputError(f"{name}: {MISSING}") from None
    metric: Any = (
        CHRF() if name == "chrf" else BLEU(tokenize=_bleu_words([each for own in references for each in own]))
    )
    most = max(len(own) for own in references)
    columns = [[own[place] if place < len(own) else None for own in references] for place in range(most)]
    try:
        score = metric.corpus_score(list(texts), columns, n_bootstrap=resamples if len(texts) > 1 else 1)
    # sacrebleu's mean of resampled scores does not take the plain 0.0 of a resample without a match
    except TypeError:
        score = metric.corpus_score(list(texts), columns)
    return float(score.score), float(getattr(score, "_ci", 0.0) or 0.0)


def _bleu_words(texts: Sequence[str]) -> str:
    """sacrebleu's way to cut words: its usual one, or characters where more of them are Chinese or Japanese
    than Latin."""
    far = sum(len(re.findall(f"[{_CJK}]", text)) for text in texts)
    return "zh" if far > sum(len(re.findall(r"[A-Za-z]", text)) for text in texts) else "13a"


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016): 1 where none comes twice."""
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 4) -> float:
    """The share of n-grams that stood in the text before (Welleck et al. 2020's seq-rep-n)."""
    grams = _grams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """How alike texts are: the mean BLEU of each against all others (Zhu et al. 2018), of the first hundred;
    0 for a single text."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise InputError(f"self-BLEU: {MISSING}") from None
    some = [text for text in texts[:SELF_BLEU_TEXTS] if text.strip()]
    if len(some) < 2:
        return 0.0
    metric = BLEU(effective_order=True, tokenize=_bleu_words(some))
    return float(
        sum(metric.sentence_score(text, some[:at] + some[at + 1 :]).score for at, text in enumerate(some))
        / len(some)
    )


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes over bytes after zlib's best: about 2 to 4 for prose, more where texts repeat themselves."""
    data = "\n".join(texts).encode()
    return len(data) / len(zlib.compress(data, 9)) if data else 0.0


def consistency(text: str, source: str) -> float | None:
    """The share of the names and numbers in a text that its source has too; None where it has neither.

    A name is a run of words in capitals, without the word that begins a sentence; a number is read without
    thousands' commas.
    """
    numbers = [_number(each) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]
    known = {_number(each) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", source)}
    names = _names(text)
    there = set(words(source))
    if not numbers and not names:
        return None
    right = sum(number in known for number in numbers) + sum(
        all(word in there for word in words(name)) for name in names
    )
    return right / (len(numbers) + len(names))


def _number(text: str) -> str:
    plain = text.replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _names(text: str) -> list[str]:
    """Runs of words in capitals. The first word of a sentence is a name only with another behind it."""
    found = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        for match in re.finditer(r"\b[A-ZÀ-Ý][\w'’-]*(?:\s+[A-ZÀ-Ý][\w'’-]*)*", sentence):
            name = match.group()
            begins = not sentence[: match.start()].strip(" \"'“(")
            if begins and len(name.split()) == 1:
                continue
            if name != "I":
                found.append(name)
    return found


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
