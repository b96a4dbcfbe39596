"""Claims about shards, order and batches: tokens equal whole-text encoding, windows come once, every byte
counts once."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from newleaf.data import text_chunks
from newleaf.data.batches import TrainBatches, validation_batches
from newleaf.data.corpus import prepare_text
from newleaf.data.data_config import DataConfig
from newleaf.data.permutation import permutation_index
from newleaf.data.stdlib_corpus import standard_library_files
from newleaf.data.token_shards import Shard, token_byte_lengths, tokenize
from newleaf.errors import InputError
from newleaf.text.tokenizer import Tokenizer as NewleafTokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

LINES = [f"Line {n} of the text, 第{n}行。" * (n % 4) for n in range(60)]
LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?"
O200K = LETTERS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def tokenizer() -> NewleafTokenizer:
    return train_tokenizer(LINES, TokenizerConfig(), 300)


def a_shard(*documents: list[int]) -> Shard:
    """[BOS] tokens for each document; 0 is BOS, 98 EOS, 99 padding, each token worth one byte."""
    stream = [token for document in documents for token in (0, *document)]
    starts = np.cumsum([0] + [len(document) + 1 for document in documents])[:-1]
    n_bytes = sum(map(len, documents))
    return Shard(
        np.array(stream, dtype=np.uint16), starts, n_bytes, len(documents), "", bos_id=0, eos_id=98, pad_id=99
    )


def rows_of(batches) -> list[tuple[list[int], list[int]]]:
    return [
        (ids.tolist(), targets.tolist())
        for batch in batches
        for ids, targets in zip(batch.ids, batch.targets)
    ]


def prepared_shard(tmp_path: Path, text: str, **options) -> tuple[Shard, Shard, str]:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    corpus = prepare_text(tmp_path / "a.txt", DataConfig(**options), tmp_path / "cache")
    train, validation = (
        tokenize(part, tokenizer(), tmp_path / "cache") for part in (corpus.train, corpus.validation)
    )
    return train, validation, "".join(corpus.validation.documents())


# --- shards


def test_the_stream_is_each_documents_tokens_behind_a_separator(tmp_path: Path) -> None:
    train, validation, _ = prepared_shard(tmp_path, "\n".join(LINES), document="line", val_fraction=0.2)
    kept = [line for line in LINES if line]
    expected = [[tokenizer().bos_id, *tokenizer().encode(line)] for line in kept[: train.n_documents]]
    assert train.tokens.tolist() == [token for document in expected for token in document]
    assert train.document_starts.tolist() == np.cumsum([0, *map(len, expected)])[:-1].tolist()
    assert train.n_bytes + validation.n_bytes == sum(len(line.encode()) for line in kept)
    assert train.tokens.dtype == np.uint16


def test_tokens_come_from_the_cache_until_the_tokenizer_changes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text " * 500)
    corpus = prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache")
    told: list[tuple[str, int, int | None]] = []
    first = tokenize(corpus.train, tokenizer(), tmp_path / "cache", lambda *news: told.append(news))
    again = tokenize(corpus.train, tokenizer(), tmp_path / "cache", lambda *news: told.append(news))
    assert told == [("tokenizing", corpus.train.n_bytes, corpus.train.n_bytes)]
    assert (again.tokens == first.tokens).all()
    other = tokenize(corpus.train, train_tokenizer([], TokenizerConfig(kind="byte")), tmp_path / "cache")
    assert other.fingerprint != first.fingerprint
    assert other.n_tokens == 1 + corpus.train.n_bytes


@pytest.mark.parametrize("name", ["tokens.bin", "starts.bin"])
def test_one_flipped_bit_in_cached_tokens_is_named_and_they_are_made_anew(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    train, _, _ = prepared_shard(tmp_path, "\n".join(LINES), document="line", val_fraction=0.2)
    expected = train.tokens.tolist(), train.document_starts.tolist()
    file = tmp_path / "cache" / "tokens" / train.fingerprint / name
    data = bytearray(file.read_bytes())
    data[9] ^= 0x04
    file.write_bytes(data)
    again, _, _ = prepared_shard(tmp_path, "\n".join(LINES), document="line", val_fraction=0.2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: damaged in the cache, so it is made anew"
    ]
    assert (again.tokens.tolist(), again.document_starts.tolist()) == expected


def test_of_a_large_text_a_part_becomes_tokens_spread_evenly_over_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n:07d} " for n in range(100_000)))
    text = prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache").train
    part = tokenize(text, tokenizer(), tmp_path / "cache", max_bytes=200_000)
    assert part.n_bytes == 199_998, "three pieces of a third, each cut at a whole number of bytes"
    bounds = [*part.document_starts.tolist(), part.n_tokens]
    pieces = [tokenizer().decode(part.tokens[first + 1 : last].tolist()) for first, last in pairwise(bounds)]
    whole = "".join(text.documents())
    assert [whole.index(piece) for piece in pieces] == [0, (len(whole) - 66_666) // 2, len(whole) - 66_666]
    assert (
        tokenize(text, tokenizer(), tmp_path / "cache", max_bytes=10**6).fingerprint
        == tokenize(text, tokenizer()).fingerprint
    )
    assert tokenize(text, tokenizer(), tmp_path / "cache").n_bytes == text.n_bytes, (
        "the part is not taken for the whole"
    )


def word_ends(pattern: str | None) -> Tokenizer:
    """A byte-level pre-tokenizer alone: where it cuts is all that chunking has to respect."""
    backend = Tokenizer(models.WordLevel({}, "?"))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    backend.pre_tokenizer = (
        words
        if pattern is None
        else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), words])
    )
    backend.decoder = decoders.ByteLevel()
    return backend


@pytest.mark.parametrize("style", ["qwen2", "gpt2", "o200k"])
@settings(max_examples=400, deadline=None)
@given(
    text=st.text(
        st.sampled_from("ab9_ \n\r\t.,'s春。/\u00a0\u0301\x1c\u2028")
        | st.characters(exclude_categories=["Cs"]),
        max_size=80,
    )
)
@example(text="。。。。\n\n春春春春春春")
@example(text="。。。。 \n春春春春春春")
def test_chunks_never_cut_a_word_in_two(style: str, text: str) -> None:
    from newleaf.text.train_tokenizer import WORDS

    split = word_ends({"qwen2": WORDS, "gpt2": None, "o200k": O200K}[style]).pre_tokenizer.pre_tokenize_str
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_chunks, "CHUNK_CHARS", 6)
        patch.setattr(text_chunks, "SEARCH_STEP", 3)
        parts = list(text_chunks.chunks([text[:7], text[7:30], text[30:]]))
    assert "".join(parts) == text
    assert [word for part in parts for word, _ in split(part)] == [word for word, _ in split(text)]


def test_a_large_document_has_the_tokens_of_the_whole_text_and_is_cut_often(tmp_path: Path) -> None:
    text = "".join(f"Sentence {n}, and 第{n}句。\n" for n in range(20_000))
    pieces = [text[start : start + 100_000] for start in range(0, len(text), 100_000)]
    assert max(map(len, text_chunks.chunks(pieces))) < 2 * text_chunks.CHUNK_CHARS
    train, _, _ = prepared_shard(tmp_path, text, val_fraction=0.01)
    assert train.tokens[1:].tolist() == tokenizer().encode(text[: int(0.99 * len(text))])
    endless = "-" * 2_500_000
    assert [len(chunk) for chunk in text_chunks.chunks([endless])] == [2**20, 2**20, 2_500_000 - 2**21]


# --- order


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(-(2**70), 2**70))
def test_the_order_is_a_permutation_for_every_size_and_seed(n: int, seed: int) -> None:
    order = permutation_index(np.arange(n), n, seed)
    assert sorted(order.tolist()) == list(range(n))
    assert permutation_index([n - 1], n, seed).tolist() == order[-1:].tolist()


def test_the_order_looks_shuffled() -> None:
    n = 20_000
    order = permutation_index(np.arange(n), n, 1)
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.03  # three standard deviations are 0.021
    assert 0.25 < (np.abs(np.diff(order)) / n).mean() < 0.42  # a third for independent places
    assert (order == np.arange(n)).sum() < 8  # one is expected
    buckets, _, _ = np.histogram2d(np.arange(n), order, bins=10)
    assert (np.abs(buckets - n / 100) < 6 * (n / 100) ** 0.5).all()
    assert (permutation_index(np.arange(n), n, 2) != order).mean() > 0.99
    places = [int(permutation_index([0], 5, seed)[0]) for seed in range(2000)]
    assert np.bincount(places, minlength=5).min() > 300  # 400 are expected


def test_positions_outside_are_refused() -> None:
    with pytest.raises(ValueError):
        permutation_index([5], 5, 0)


# --- training batches

lengths = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def documents_of(sizes: list[int]) -> list[list[int]]:
    tokens = iter(range(1, 10**6))
    return [[next(tokens) for _ in range(size)] for size in sizes]


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(2, 200), length=st.integers(1, 12), batch_size=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_packed_windows_come_once_per_epoch_and_predict_the_next_token(
    n: int, length: int, batch_size: int, seed: int
) -> None:
    shard = a_shard(list(range(1, n)))
    if n <= length:
        with pytest.raises(InputError, match=rf"{n} tokens.*windows of {n - 1} tokens or less"):
            TrainBatches(shard, length, batch_size, seed, DataConfig())
        return
    batches = TrainBatches(shard, length, batch_size, seed, DataConfig())
    per_epoch = batches.rows_per_epoch
    rows = rows_of(batches.batch(step) for step in range(-(-2 * per_epoch // batch_size)))
    for epoch in (0, 1):
        starts = sorted(ids[0] for ids, _ in rows[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert np.diff(starts).tolist() == [length] * (per_epoch - 1), "windows side by side, none twice"
        assert n - per_epoch * length < 2 * length, "no room for two more"
    assert all(targets == [token + 1 for token in ids] for ids, targets in rows)
    assert batches.epoch(per_epoch) == batch_size


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    shard = a_shard(*documents_of([40] * 10))
    for config in (DataConfig(), DataConfig(layout="document", stride=3)):
        one, other = TrainBatches(shard, 8, 4, 1, config), TrainBatches(shard, 8, 4, 1, config)
        forwards = [one.batch(step) for step in range(30)]
        backwards = [other.batch(step) for step in reversed(range(30))][::-1]
        assert all(
            torch.equal(a.ids, b.ids) and torch.equal(a.targets, b.targets)
            for a, b in zip(forwards, backwards)
        )
        assert not torch.equal(TrainBatches(shard, 8, 4, 2, config).batch(0).ids, forwards[0].ids)
        assert forwards[0].ids.dtype == forwards[0].targets.dtype == torch.int64


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_what_a_batch_holds_does_not_depend_on_how_many_share_it(parts: int) -> None:
    shard = a_shard(*documents_of([40] * 10))
    whole = TrainBatches(shard, 8, 6, 1, DataConfig())
    shares = [TrainBatches(shard, 8, 6, 1, DataConfig(), (part, parts)) for part in range(parts)]
    for step in range(20):
        assert torch.equal(torch.cat([share.batch(step).ids for share in shares]), whole.batch(step).ids)
    with pytest.raises(InputError, match="6 windows cannot be shared by 4 processes"):
        TrainBatches(shard, 8, 6, 1, DataConfig(), (0, 4))


def test_epochs_differ_in_order_and_phase() -> None:
    shard = a_shard(list(range(1, 500)))
    batches = TrainBatches(shard, 16, 30, 0, DataConfig())
    assert batches.rows_per_epoch == 30
    epochs = [batches.batch(step).ids[:, 0].tolist() for step in range(8)]
    assert len({min(starts) for starts in epochs}) > 3
    assert len({tuple(np.argsort(starts)) for starts in epochs}) == 8


@settings(max_examples=150, deadline=None)
@given(sizes=lengths, length=st.integers(1, 6), data=st.data())
def test_document_windows_predict_each_token_and_the_end_and_never_cross(
    sizes: list[int], length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.none() | st.integers(1, length))
    documents = documents_of(sizes)
    batches = TrainBatches(a_shard(*documents), length, 1, 3, DataConfig(layout="document", stride=stride))
    rows = rows_of(batches.batch(step) for step in range(batches.rows_per_epoch))
    found = set()
    for ids, targets in rows:
        pairs = [(a, b) for a, b in zip(ids, targets) if b != -100]
        assert pairs
        assert all(a == 99 for a, b in zip(ids, targets) if b == -100 and a != 98), (
            "what has no target is padding, or EOS"
        )
        found.update(pairs[:-1] if pairs[-1][1] == 98 else pairs)
    whole = [[0, *document, 98] for document in documents]
    everything = {pair for document in whole for pair in pairwise(document)}
    assert found == {pair for pair in everything if pair[1] != 98}
    assert sum(targets.count(98) for _, targets in rows) == len(documents), "each end is predicted once"
    if stride is None:
        assert sum(target != -100 for _, targets in rows for target in targets) == sum(
            len(document) - 1 for document in whole
        )


def test_stride_one_slides_over_a_line_as_the_tutorial_does() -> None:
    batches = TrainBatches(a_shard([1, 2, 3, 4]), 3, 1, 0, DataConfig(layout="document", stride=1))
    rows = sorted(rows_of(batches.batch(step) for step in range(batches.rows_per_epoch)))
    assert rows == [([0, 1, 2], [1, 2, 3]), ([1, 2, 3], [2, 3, 4]), ([2, 3, 4], [3, 4, 98])]
    with pytest.raises(InputError, match=r"data\.stride"):
        TrainBatches(a_shard([1, 2]), 3, 1, 0, DataConfig(layout="document", stride=4))


def test_the_document_mask_numbers_the_documents_in_a_window() -> None:
    shard = a_shard([1, 2], [3], [4, 5, 6])
    (batch,) = validation_batches(shard, 9, 1, DataConfig(document_mask=True))
    assert batch.ids.tolist() == [[0, 1, 2, 0, 3, 0, 4, 5, 6]]
    assert batch.documents is not None
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2, 2]]
    assert batch.documents.dtype == torch.int32
    assert TrainBatches(shard, 3, 1, 0, DataConfig()).batch(0).documents is None


# --- validation


@settings(max_examples=200, deadline=None)
@given(
    sizes=lengths,
    length=st.integers(1, 12),
    batch_size=st.integers(1, 5),
    layout=st.sampled_from(["packed", "document"]),
)
def test_validation_predicts_each_token_once_in_order_and_no_separator(
    sizes: list[int], length: int, batch_size: int, layout: str
) -> None:
    documents = documents_of(sizes)
    batches = list(validation_batches(a_shard(*documents), length, batch_size, DataConfig(layout=layout)))
    targets = [target for _, row in rows_of(batches) for target in row if target != -100]
    assert targets == [token for document in documents for token in document]
    assert len({batch.ids.shape for batch in batches}) <= 1
    before = {b: a for document in documents for a, b in zip([0, *document], document)}
    assert all(before[b] == a for ids, row in rows_of(batches) for a, b in zip(ids, row) if b != -100)


def test_packed_validation_windows_are_the_house_rules() -> None:
    rows = rows_of(validation_batches(a_shard([1, 2, 3], [4]), 2, 1, DataConfig()))
    assert rows == [([0, 1], [1, 2]), ([2, 3], [3, -100]), ([0, 4], [4, -100])]


@pytest.mark.parametrize("layout", ["packed", "document"])
def test_validation_counts_every_byte_of_the_text_once(tmp_path: Path, layout: str) -> None:
    text = "".join(f"第{n}行 <|endoftext|> naïve\r\n" for n in range(300))
    _, validation, held_out = prepared_shard(tmp_path, text, val_fraction=0.3)
    per_token = token_byte_lengths(tokenizer())
    covered = [
        batch.targets[batch.targets != -100].numpy()
        for batch in validation_batches(validation, 32, 4, DataConfig(layout=layout))
    ]
    assert (
        sum(int(per_token[targets].sum()) for targets in covered)
        == len(held_out.encode())
        == validation.n_bytes
    )


def test_an_estimate_takes_evenly_spaced_windows_of_the_whole() -> None:
    shard = a_shard(list(range(1, 1001)))
    every = rows_of(validation_batches(shard, 10, 7, DataConfig()))
    some = rows_of(validation_batches(shard, 10, 7, DataConfig(), limit_windows=5))
    some = [row for row in some if set(row[1]) != {-100}]
    assert len(every) >= 100
    assert [every.index(row) for row in some] == [0, 25, 50, 74, 99]


# --- the standard library


def test_the_standard_library_is_a_text_of_python_without_tests_split_by_file() -> None:
    train, held_out = standard_library_files()
    assert not set(train) & set(held_out)
    assert (train, held_out) == standard_library_files()
    sizes = [sum(path.stat().st_size for path in paths) for paths in (train, held_out)]
    assert sizes[0] > 2**21
    assert 0.03 < sizes[1] / sum(sizes) < 0.2
    assert not {"test", "tests", "site-packages", "idle_test"} & {
        part for path in train + held_out for part in path.parts[-4:-1]
    }
    assert {"argparse.py", "ast.py"} <= {path.name for path in train + held_out}


def test_a_python_without_its_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(InputError, match="standard library"):
        standard_library_files()
