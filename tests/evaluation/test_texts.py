"""Text in bits per byte, and texts that are written: figures by definition, by sacrebleu and rouge-score, and
by hand."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tasks import tiny_model, word_tokenizer, write_rows

import newleaf
from newleaf.api import Model
from newleaf.api.evaluating import evaluation
from newleaf.errors import InputError
from newleaf.evaluation.perplexity import windows
from newleaf.measure import text_metrics


def nats_of(model: Model, text: str, length: int, stride: int) -> float:
    """The definition, a token at a time: each is predicted from what its window shows."""
    ids = [model.tokenizer.separator_id, *model.tokenizer.encode(text)]
    total, done = 0.0, 0
    for start in range(0, len(ids), stride):
        end = min(len(ids) - 1, start + length)
        for place in range(done + 1, end + 1):
            with torch.no_grad():
                logits = model.network(torch.tensor([ids[start:place]]))[0, -1].double()
            total -= float(logits.log_softmax(-1)[ids[place]])
        done = max(done, end)
    return total


@pytest.mark.parametrize("stride", [None, 7])
def test_bits_per_byte_and_perplexities_are_by_definition(
    stride: int | None, tiny_tokenizer: Any, book: Path, tmp_path: Path
) -> None:
    model = tiny_model(tiny_tokenizer, context=32)
    texts = [book.read_text("utf-8")[start : start + 400] + "é中" for start in (0, 5000, 9000)]
    path = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    options = {"stride": stride} if stride else {}
    found = newleaf.evaluate(model, [str(path)], quiet=True, out=tmp_path / "out", **options)["tasks"][
        "texts"
    ]
    nats = [nats_of(model, text, 32, stride or 32) for text in texts]
    size = [len(text.encode()) for text in texts]
    tokens = sum(len(model.tokenizer.encode(text)) for text in texts)
    assert found["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / sum(size), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(sum(nats) / tokens), rel=1e-4)
    assert found["word_perplexity"] == pytest.approx(
        math.exp(sum(nats) / sum(len(text.split()) for text in texts)), rel=1e-4
    )
    assert [each["bits_per_byte"] for each in found["documents"]] == pytest.approx(
        [n / math.log(2) / s for n, s in zip(nats, size, strict=True)], rel=1e-5
    )
    packed = lzma.compress("".join(texts).encode(), preset=9 | lzma.PRESET_EXTREME)
    # the file's header and index, without those of a block
    around = len(lzma.compress(b"", preset=9 | lzma.PRESET_EXTREME))
    assert (
        8 * (len(packed) - around - 32) / sum(size)
        < found["xz_bits_per_byte"]
        < 8 * (len(packed) - around) / sum(size)
    )
    assert evaluation(model, [str(path)], quiet=True, out=tmp_path / "out", **options).tasks[0].asked == 0


@pytest.mark.parametrize("text", ["a" * 3000, "明月几时有把酒问青天" * 200, " \n" * 1000, "x"])
def test_a_text_without_words_has_no_perplexity_of_words(
    text: str, tiny_tokenizer: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "a.txt").write_text(text, "utf-8")
    found = newleaf.evaluate(tiny_model(tiny_tokenizer, context=32), [str(tmp_path / "a.txt")], quiet=True)[
        "tasks"
    ]["a"]
    assert ("word_perplexity" in found) == (text == "x")
    assert ("xz_bits_per_byte" in found) == (text != "x")
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))
    assert [str(each.message) for each in recwarn if issubclass(each.category, RuntimeWarning)] == []


def test_a_larger_share_of_context_costs_fewer_bits_and_every_token_is_predicted_once() -> None:
    ids = list(range(100))
    for length, stride in ((10, 10), (10, 3), (64, 64), (200, 50), (7, 1)):
        found = list(windows(ids, length, stride))
        assert [token for _, own in found for token in own] == ids[1:]
        assert all(len(trunk) + len(own) - 1 <= length for trunk, own in found)
        assert all(trunk[-1] + 1 == own[0] for trunk, own in found)


def test_one_text_has_an_interval_over_its_windows(tiny_tokenizer: Any, book: Path) -> None:
    found = newleaf.evaluate(tiny_model(tiny_tokenizer, context=32), [str(book)], limit=1, quiet=True)[
        "tasks"
    ]["book"]
    assert found["bits_per_byte_low"] < found["bits_per_byte"] < found["bits_per_byte_high"]
    assert found["n"] == 1


def test_bits_per_byte_is_the_examiners_of_training(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """House rule 7: the figure of a run's validation and of its evaluation are one."""
    import numpy as np

    from newleaf.data.batches import validation_batches
    from newleaf.data.corpus import prepare_text
    from newleaf.data.data_config import DataConfig
    from newleaf.data.token_shards import token_byte_lengths, tokenize
    from newleaf.measure.bits_per_byte import text_loss

    (tmp_path / "a.txt").write_text("The quick brown fox. " * 80, "utf-8")
    model = tiny_model(tiny_tokenizer, context=32)
    corpus = prepare_text(
        [tmp_path / "a.txt"], DataConfig(validation=(str(tmp_path / "a.txt"),)), tmp_path / "cache"
    )
    shard = tokenize(corpus.validation, tiny_tokenizer, tmp_path / "cache")
    lengths = torch.from_numpy(np.asarray(token_byte_lengths(tiny_tokenizer))).long()
    wanted = text_loss(model.network, validation_batches(shard, 32, 4, DataConfig()), lengths).bits_per_byte
    found = newleaf.evaluate(model, [str(tmp_path / "a.txt")], quiet=True)["tasks"]["a"]
    assert found["bits_per_byte"] == pytest.approx(wanted, rel=1e-5)


def test_a_tokenizer_that_loses_text_has_no_bits_per_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc def xyz abc " * 5)
    found = evaluation(tiny_model(word_tokenizer(), context=16), [str(tmp_path / "a.txt")], quiet=True).tasks[
        0
    ]
    assert set(found.scores) == {"perplexity", "word_perplexity"}
    assert "no bits per byte" in found.left_out[0]


def test_files_that_cannot_be_read_are_named(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine here"}\n{"other": 1}\nnot json\n{"text": ""}\n')
    found = evaluation(model, [str(path)], quiet=True).tasks[0]
    assert found.n == 1
    assert [line.partition(": ")[0] for line in found.left_out] == [
        f"{path}:{number}" for number in (2, 3, 4)
    ]
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.txt"):
        evaluation(model, [str(tmp_path / "binary.txt")], quiet=True)
    with pytest.raises(InputError, match="stride: must be 1 to 2048"):
        evaluation(model, [str(path)], stride=5000, quiet=True)


# ---- texts that are written


def test_bleu_chrf_and_rouge_are_the_libraries(model: Model, book: Path, tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeL"], use_stemmer=True
    )
    rows = [
        {"prompt": f"parse the {word} of", "references": [f"the {word} option", "an argument"]}
        for word in ("first", "second", "third")
    ]
    path = write_rows(tmp_path / "own.jsonl", rows)
    found = newleaf.evaluate(model, [str(path)], max_tokens=12, out=tmp_path / "out", quiet=True)["tasks"][
        "own"
    ]
    texts = [
        json.loads(line)["answer"][0]
        for line in (tmp_path / "out/answers/own.jsonl").read_text("utf-8").splitlines()
    ]
    assert all(texts)
    columns = [[row["references"][place] for row in rows] for place in (0, 1)]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, columns).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, columns).score)
    best = [
        max(scorer.score(reference, text.strip())["rougeL"].fmeasure for reference in row["references"])
        for row, text in zip(rows, texts)
    ]
    assert found["rougeL"] == pytest.approx(sum(best) / 3)
    assert found["n"] == 3


def test_what_is_written_is_what_generate_writes_up_to_the_templates_stop(
    model: Model, tmp_path: Path
) -> None:
    path = write_rows(
        tmp_path / "own.jsonl",
        [{"prompt": text, "references": ["x"]} for text in ("one two", "three", "parse args")],
    )
    evaluation(model, [str(path)], max_tokens=30, template="tldr", out=tmp_path / "out", quiet=True)
    for line in (tmp_path / "out/answers/own.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        assert row["prompt"].endswith("\nTL;DR:")
        assert row["answer"] == [model.generate(row["prompt"], max_tokens=30, temperature=0, stop=["\n\n"])]


def test_shots_are_the_files_first_rows_in_the_templates_form(model: Model, tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "own.jsonl",
        [{"prompt": f"word {n}", "references": [f"mot {n}", "autre"]} for n in range(4)],
    )
    found = evaluation(
        model, [str(path)], shots=2, max_tokens=4, template="equals", out=tmp_path / "out", quiet=True
    ).tasks[0]
    rows = [json.loads(line) for line in (tmp_path / "out/answers/own.jsonl").read_text("utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == [f"word 0 = mot 0\nword 1 = mot 1\nword {n} =" for n in (2, 3)]
    assert found.n == 2
    own = evaluation(
        model,
        [str(path)],
        limit=1,
        max_tokens=4,
        template="Translate: {prompt} ->",
        out=tmp_path / "two",
        quiet=True,
    )
    assert (
        json.loads((tmp_path / "two/answers/own.jsonl").read_text("utf-8"))["prompt"]
        == "Translate: word 0 ->"
    )
    assert own.tasks[0].n == 1
    for options, said in (
        ({"template": "tl;dr"}, "template: 'tl;dr' is none of plain"),
        ({"shots": 4}, "4 shots leave no row"),
    ):
        with pytest.raises(InputError, match=said):
            evaluation(model, [str(path)], quiet=True, **options)


def test_conversations_are_asked_for_their_last_message(model: Model, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"}]
    path = write_rows(
        tmp_path / "talk.jsonl", [{"messages": talk}, {"messages": talk[:1]}, {"messages": [*talk, talk[0]]}]
    )
    found = evaluation(model, [str(path)], max_tokens=4, out=tmp_path / "out", quiet=True).tasks[0]
    assert found.n == 1
    assert [line.split(": ", 1)[1] for line in found.left_out] == [
        "messages must be two or more, each with content",
        "the last of messages must be the assistant's, to compare with",
    ]
    row = json.loads((tmp_path / "out/answers/talk.jsonl").read_text("utf-8"))
    assert (row["prompt"], row["gold"]) == ("User: Hello\nAssistant:", ["Hi there"])


def test_empty_references_are_left_out_by_name(model: Model, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "references": ["b"]},
        {"prompt": "a", "references": []},
        {"prompt": "a", "references": [""]},
        {"prompt": "a"},
    ]
    found = evaluation(
        model, [str(write_rows(tmp_path / "own.jsonl", rows))], max_tokens=3, quiet=True
    ).tasks[0]
    assert found.n == 1
    assert len(found.left_out) == 3
    assert "references must be a list of texts that are not empty, not []" in found.left_out[0]
    assert "has no field 'references'" in found.left_out[2]


def test_exact_match_and_f1_are_squads() -> None:
    assert text_metrics.exact_match("The Eiffel Tower!", ["eiffel tower"]) == 1
    assert text_metrics.exact_match("Eiffel", ["eiffel tower"]) == 0
    assert text_metrics.f1("the big eiffel tower", ["Eiffel tower in Paris", "no"]) == pytest.approx(
        2 * 2 / (3 + 4)
    )
    assert text_metrics.f1("没有远程", ["没有这样的远程"]) == pytest.approx(2 * 4 / (4 + 7))


def test_diversity_is_by_definition() -> None:
    assert text_metrics.distinct(["a b a b", "a c"], 1) == pytest.approx(3 / 6)
    assert text_metrics.distinct(["a b a b", "a c"], 2) == pytest.approx(3 / 4)
    assert text_metrics.repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert text_metrics.repetition("one two three four five") == 0
    assert text_metrics.self_bleu(["the same words here now"] * 4) == pytest.approx(100)
    assert text_metrics.self_bleu(["the first words here now", "entirely different text stands there"]) < 10
    assert text_metrics.self_bleu(["没有这样的远程仓库", "没有这样的远程分支"]) > 40  # by characters
    assert text_metrics.compression_ratio(["na " * 1000]) > 50


def test_bleu_of_chinese_is_by_characters() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = ["没有这样的远程组", "默认的值"], [["没有这样的远程或远程组"], ["默认值"]]
    score, half = text_metrics.corpus_score("bleu", texts, references)
    assert score == pytest.approx(
        sacrebleu.corpus_bleu(texts, [[each[0] for each in references]], tokenize="zh").score
    )
    assert half >= 0


def test_consistency_is_the_share_of_names_and_numbers_that_the_source_has() -> None:
    source = "In 1997 Marie Curie gave 1,200 francs to Paris."
    assert text_metrics.consistency("The gift of 1200 francs by Marie Curie went to Paris.", source) == 1
    assert text_metrics.consistency("She gave 1300 francs to Paris.", source) == pytest.approx(1 / 2)
    assert text_metrics.consistency("Today Albert Einstein gave 1200 francs.", source) == pytest.approx(1 / 2)
    assert text_metrics.consistency("nothing to check here", source) is None
