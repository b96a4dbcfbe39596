"""BLEU, chrF and ROUGE are those of their packages; exact matches are counted."""

from __future__ import annotations

import pytest

from newleaf.measure.corpus_scores import headline, text_metric

TEXTS = ["the cat sat on the mat", "a dog ran home quickly today", ""]
REFERENCES = [
    ["the cat sat on the mat", "a cat was on the mat"],
    ["the dog ran home quickly today"],
    ["nothing to say here"],
]


def test_bleu_and_chrf_are_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    columns = [
        ["the cat sat on the mat", "the dog ran home quickly today", "nothing to say here"],
        ["a cat was on the mat", None, None],
    ]
    assert text_metric("bleu", TEXTS, REFERENCES) == {"bleu": sacrebleu.corpus_bleu(TEXTS, columns).score}
    assert text_metric("chrf", TEXTS, REFERENCES) == {"chrf": sacrebleu.corpus_chrf(TEXTS, columns).score}
    chinese = text_metric("bleu", ["删除的文件仍有内容"], [["删除的文件仍有内容"]])["bleu"]
    assert chinese == pytest.approx(100)  # by characters; as one word it would have no pairs of words


def test_rouge_is_the_mean_of_the_best_f1() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge.RougeScorer(["rougeL"], use_stemmer=True)
    wanted = [
        max(scorer.score(good, text)["rougeL"].fmeasure for good in known)
        for text, known in zip(TEXTS, REFERENCES, strict=True)
    ]
    found = text_metric("rouge", TEXTS, REFERENCES)
    assert found["rougeL"] == pytest.approx(100 * sum(wanted) / 3)
    assert list(found) == ["rougeL", "rouge2", "rouge1"]
    assert headline("rouge") == "rougeL"


def test_exact_matches_are_counted_but_for_white_space_around() -> None:
    assert text_metric("exact", [" a cat was on the mat\n", "x", ""], REFERENCES) == {
        "exact": pytest.approx(100 / 3)
    }
