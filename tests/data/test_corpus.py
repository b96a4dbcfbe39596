"""Claims about preparing text: the split, the cache, cleaning, and what a full disk leaves behind."""

import errno
import json
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.data import corpus as corpus_module
from newleaf.data.cleaning import Cleaner
from newleaf.data.corpus import Corpus, prepare_text
from newleaf.data.data_config import DataConfig
from newleaf.data.text_store import TextRange, TextStoreWriter
from newleaf.errors import InputError
from newleaf.storage.atomic_write import replace_directory, write_atomically


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def prepared(tmp_path: Path, text: str, name: str = "a.txt", **options) -> Corpus:
    return prepare_text(write(tmp_path / name, text), DataConfig(**options), tmp_path / "cache")


def whole(text: TextRange) -> list[str]:
    return list(text.documents())


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=2),
    fraction=st.floats(0.01, 0.9),
)
def test_one_text_is_split_at_a_character(
    tmp_path_factory: pytest.TempPathFactory, text: str, fraction: float
) -> None:
    n = int(len(text) * (1 - fraction))  # nanoGPT's way to say it
    if n == 0:
        return
    corpus = prepared(tmp_path_factory.mktemp("split"), text, val_fraction=fraction)
    assert whole(corpus.train) == [text[:n]]
    assert whole(corpus.validation) == [text[n:]]
    assert (corpus.train.n_chars, corpus.validation.n_chars) == (n, len(text) - n)
    assert corpus.train.n_bytes == len(text[:n].encode())


def test_several_documents_are_split_between_documents(tmp_path: Path) -> None:
    corpus = prepared(tmp_path, "".join(f"线{n}\n" for n in range(20)), document="line", val_fraction=0.15)
    assert whole(corpus.train) == [f"线{n}" for n in range(17)]
    assert whole(corpus.validation) == ["线17", "线18", "线19"]
    assert (corpus.train.n_chars, corpus.validation.n_chars) == (10 * 2 + 7 * 3, 9)
    two = prepared(tmp_path, "a\nb\n", "two.txt", document="line", val_fraction=0.9)
    assert (whole(two.train), whole(two.validation)) == (["a"], ["b"])


def test_a_validation_text_of_its_own_takes_nothing_from_the_training_text(tmp_path: Path) -> None:
    held_out = write(tmp_path / "v.txt", "x\ny\nz\n")
    corpus = prepared(
        tmp_path, "a\nb\nc\n", document="line", limit=2, validation=str(held_out), validation_limit=1
    )
    assert (whole(corpus.train), whole(corpus.validation)) == (["a", "b"], ["x"])


def test_a_second_run_does_not_read_the_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(tmp_path, "some text\n" * 50)
    monkeypatch.setattr(corpus_module, "documents", None)  # reading would fail
    second = prepare_text(tmp_path / "a.txt", DataConfig(layout="document"), tmp_path / "cache")
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.fingerprint == first.fingerprint
    assert whole(second.train) == whole(first.train)
    monkeypatch.undo()
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    assert not prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache").from_cache
    assert not prepare_text(tmp_path / "a.txt", DataConfig(val_fraction=0.5), tmp_path / "cache").from_cache


@pytest.mark.parametrize("damage", ["meta.json", "text.bin", "text.ends"])
def test_a_damaged_cache_entry_is_rebuilt(tmp_path: Path, damage: str) -> None:
    corpus = prepared(tmp_path, "some text\n" * 50)
    path = corpus.train.path.with_name(damage)
    path.write_bytes(path.read_bytes()[:-3])
    again = prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache")
    assert not again.from_cache
    assert whole(again.train) == whole(corpus.train)
    assert again.fingerprint == corpus.fingerprint


@pytest.mark.parametrize("damage", ["meta.json", "text.bin", "text.ends"])
def test_one_flipped_bit_in_cached_text_is_named_and_the_text_is_read_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = prepared(tmp_path, "some text\n" * 50)
    path = corpus.train.path.with_name(damage)
    flip_a_bit(path)
    again = prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache")
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: damaged in the cache, so it is made anew"
    ]
    assert not again.from_cache
    assert whole(again.train) == whole(corpus.train)
    assert prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache").from_cache


def test_an_entry_that_an_earlier_version_sealed_is_made_anew_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = prepared(tmp_path, "some text\n" * 50)
    seal = corpus.train.path.with_name("meta.json")
    seal.write_text('{"sizes": {"text.bin": 500, "text.ends": 8}, "meta": {}}')
    assert not prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache").from_cache
    assert not caplog.records


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def test_runs_at_the_same_time_agree(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "some text\n" * 5000)
    results: list[list[str]] = []

    def run() -> None:
        results.append(whole(prepare_text(tmp_path / "a.txt", DataConfig(), tmp_path / "cache").train))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(result == results[0] for result in results)
    assert len(list((tmp_path / "cache" / "text").iterdir())) == 1, "no half-written neighbours are left"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(TextStoreWriter, "add", fail)
    with pytest.raises(InputError, match="NEWLEAF_CACHE") as caught:
        prepared(tmp_path, "text\n")
    assert ("disk is full" in str(caught.value)) == (code == errno.ENOSPC)
    assert str(tmp_path / "cache" / "text") in str(caught.value)
    assert list((tmp_path / "cache" / "text").iterdir()) == []


def test_texts_too_small_to_split_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 character\(s\), too few"):
        prepared(tmp_path, "a", val_fraction=0.5)
    folder = tmp_path / "empty"
    folder.mkdir()
    write(folder / "a.txt", "")
    with pytest.raises(InputError, match=r"holds no text \(1 empty\)"):
        prepare_text(folder, DataConfig(), tmp_path / "cache")
    with pytest.raises(InputError, match=r"holds no text \(2 dropped: too short\)"):
        prepared(tmp_path, "a\nb\n", document="line", min_length=5)


def test_a_file_that_fails_half_way_leaves_no_trace_when_skipped(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"y" * 5_000_000 + b"\xff")
    names = [write(tmp_path / "a.txt", "first"), tmp_path / "b.txt", write(tmp_path / "c.txt", "last")]
    corpus = prepare_text(names, DataConfig(on_error="skip"), tmp_path / "cache")
    assert (whole(corpus.train), whole(corpus.validation)) == (["first"], ["last"])
    assert corpus.report["skipped"] == {"not UTF-8": 1}
    with pytest.raises(InputError, match="on_error skip"):
        prepare_text(names, DataConfig(), tmp_path / "cache")


def test_progress_counts_the_bytes_of_all_files(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    names = [write(tmp_path / "a.txt", "春" * 100), write(tmp_path / "b.txt", "x" * 50)]
    prepare_text(names, DataConfig(), tmp_path / "cache", lambda *news: told.append(news))
    assert told == [("reading", 300, 350), ("reading", 350, 350)]


def test_cleaning_is_reported(tmp_path: Path) -> None:
    rows = ["e\u0301 one", "\u00e9 one", "ab", "long enough  \n\n\n\n\nend ", "another text"]
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    corpus = prepared(
        tmp_path, lines, "a.jsonl", normalize="nfc", whitespace=True, dedup="exact", min_length=4
    )
    assert whole(corpus.train) == ["\u00e9 one", "long enough\n\nend"]
    assert corpus.report["cleaning"] == {
        "changed: normalize": 1,
        "changed: whitespace": 1,
        "dropped: exact duplicate": 1,
        "dropped: too short": 1,
    }


@pytest.mark.parametrize("unit", ["word{} ", "字{}"])
def test_near_duplicates_drop_out_and_different_texts_stay(unit: str) -> None:
    pytest.importorskip("datasketch")
    cleaner = Cleaner(DataConfig(dedup="near"))
    text = "".join(unit.format(n) for n in range(300))
    nearly = text.replace("150", "abc")
    other = "".join(unit.format(n) for n in range(300, 600))
    assert [cleaner.clean([each]) is not None for each in (text, nearly, other, text)] == [
        True,
        False,
        True,
        False,
    ]
    assert cleaner.counts == {"dropped: near duplicate": 1, "dropped: exact duplicate": 1}


def test_a_sample_is_spread_over_the_text_and_keeps_documents_apart(tmp_path: Path) -> None:
    corpus = prepared(tmp_path, "".join(f"春{n:07d}\n" for n in range(40_000)), document="line")
    sample = list(corpus.train.sample(140_000))
    assert sum(len(piece.encode()) for piece in sample) <= 140_000
    assert sum(len(piece.encode()) for piece in sample) > 139_900
    numbers = [int(piece[1:]) for piece in sample if len(piece) == 8 and piece[0] == "春"]
    assert numbers[0] == 0
    assert numbers[-1] == corpus.train.n_documents - 1
    assert "".join(sample).count("\n") == 0
    assert list(corpus.train.sample(10**9)) == whole(corpus.train)


def test_files_and_folders_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    write(tmp_path / "file", "old")
    with suppress(RuntimeError), write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with suppress(RuntimeError), replace_directory(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    for text in ("one", "two"):
        with replace_directory(tmp_path / "folder") as temporary:
            (temporary / text).write_text(text)
        assert [path.name for path in (tmp_path / "folder").iterdir()] == [text]
    with write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_of_two_books_the_end_of_each_is_held_out_and_not_one_of_them(tmp_path: Path) -> None:
    first, second = "春眠不觉晓，处处闻啼鸟。" * 400, "It was a bright cold day in April. " * 600
    sources = [write(tmp_path / "a.txt", first), write(tmp_path / "b.txt", second)]
    corpus = prepare_text(sources, DataConfig(val_fraction=0.1), cache=tmp_path / "cache")
    train, held_out = list(corpus.train.documents()), list(corpus.validation.documents())
    assert [train[0] + held_out[0], train[1] + held_out[1]] == [first, second], (
        "cut between characters, and nothing is lost"
    )
    for whole, end in zip((first, second), held_out, strict=True):
        assert len(end.encode("utf-8")) / len(whole.encode("utf-8")) == pytest.approx(0.1, abs=0.001)
    assert corpus.train.n_chars == len("".join(train))
