"""How close written texts come to good ones: BLEU and chrF by sacrebleu, ROUGE by rouge-score, exact matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from newleaf.errors import InputError

TextMetric = Literal["bleu", "chrf", "rouge", "exact"]
ROUGE = ("rouge1", "rouge2", "rougeL")
HAN = range(0x4E00, 0xA000)


def text_metric(name: TextMetric, texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Figures of a whole set, from 0 to 100, the one that counts first. Every text has one or more references.

    Raises InputError without the package that measures it.
    """
    if name == "bleu":
        return {"bleu": _bleu(texts, references)}
    if name == "chrf":
        return {"chrf": _sacrebleu().corpus_chrf(list(texts), _columns(references)).score}
    if name == "rouge":
        return _rouge(texts, references)
    hits = [text.strip() in [good.strip() for good in known] for text, known in zip(texts, references, strict=True)]
    return {"exact": 100 * sum(hits) / max(1, len(hits))}


def headline(name: TextMetric) -> str:
    """The figure of a metric that counts."""
    return "rougeL" if name == "rouge" else name


def _bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU; Chinese is cut into characters, as sacrebleu's `zh` does."""
    chinese = any(ord(letter) in HAN for known in references for text in known for letter in text)
    found: float = _sacrebleu().corpus_bleu(list(texts), _columns(references), tokenize="zh" if chinese else "13a").score
    return found


def _rouge(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means of F1, of each text the best over its references."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError("ROUGE needs the package rouge-score; run: pip install 'newleaf[eval]'") from error
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [scorer.score_multi(list(known), text) for text, known in zip(texts, references, strict=True)]
    return {name: 100 * sum(score[name].fmeasure for score in scores) / max(1, len(scores)) for name in reversed(ROUGE)}


def _columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The n-th reference of every text in the n-th list, as sacrebleu wants them."""
    most = max((len(known) for known in references), default=1)
    return [[known[number] if number < len(known) else None for known in references] for number in range(most)]


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise InputError("BLEU and chrF need the package sacrebleu; run: pip install 'newleaf[eval]'") from error
    return sacrebleu
