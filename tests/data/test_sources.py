"""Claims about sources: what becomes a document, and what is said about text that cannot be read."""

import builtins
import csv
import gzip
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from newleaf.data.bad_documents import Problems
from newleaf.data.data_config import DataConfig
from newleaf.data.documents import documents
from newleaf.data.sources import parse_hub_name, resolve_sources
from newleaf.errors import InputError


def read(*sources: Path | str, problems: Problems | None = None, **options) -> list[str]:
    config = DataConfig(**options)
    problems = problems or Problems(config.on_error)
    return ["".join(document.pieces) for document in documents(resolve_sources(sources), config, problems)]


def jsonl(*texts: str) -> str:
    return "".join(
        json.dumps({"id": n, "text": text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
    )


def write(path: Path, data: str | bytes) -> Path:
    data = data.encode() if isinstance(data, str) else data
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data[: len(data) // 2]) + zstandard.compress(data[len(data) // 2 :])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_every_kind_of_file_gives_its_documents(tmp_path: Path, packing: str) -> None:
    texts = ["one\r\ntwo 春", 'she said "hi",\nand left', "x" * 200_000]
    assert read(write(tmp_path / f"a.txt{packing}", texts[0])) == ["one\ntwo 春"]
    assert read(write(tmp_path / f"a.py{packing}", texts[0])) == ["one\ntwo 春"]
    assert read(write(tmp_path / f"a.jsonl{packing}", jsonl(*texts))) == texts
    rows = tmp_path / "rows.csv"
    with rows.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["n", "text"], *([n, text] for n, text in enumerate(texts))])
    limit = csv.field_size_limit()
    assert read(write(tmp_path / f"b.csv{packing}", rows.read_bytes())) == texts
    assert csv.field_size_limit() == limit
    table = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"n": [0, 1, 2], "text": texts}), table)
    assert read(write(tmp_path / f"c.parquet{packing}", table.read_bytes())) == texts


def test_the_field_names_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "no", "body": "yes"}\n')
    assert read(path, field="body") == ["yes"]


def test_a_txt_file_is_one_document_or_its_lines_or_its_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\r\n\n \nthree\n\n")
    assert read(path) == ["one\ntwo\n\n \nthree\n\n"]
    assert read(path, document="line") == ["one", "two", "three"]
    assert read(path, document="blank-line") == ["one\ntwo", "three"]
    code = write(tmp_path / "a.py", "one\n\ntwo\n")
    assert read(code, document="line") == ["one\n\ntwo\n"]


def test_folders_and_globs_are_read_in_order_and_say_what_they_pass_over(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.txt", "c.bin", ".hidden/x.txt"):
        write(tmp_path / name, name)
    found = resolve_sources([tmp_path])
    assert [source.path.name for source in found.sources] == ["y.txt", "z.md", "b.txt"]
    assert [Path(name).name for name in found.skipped_files] == ["c.bin"]
    assert read(f"{tmp_path}/**/*.txt") == ["a/y.txt", "b.txt"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", b"\xef\xbb\xbfa\xef\xbb\xbf")) == ["a\ufeff"]
    assert read(write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + jsonl("b").encode())) == ["b"]
    assert read(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\nc\n")) == ["c"]


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("a.txt", b"ab\xffcd", {}, r"a\.txt: not UTF-8 at byte 2"),
        ("a.txt", "ab春".encode()[:-1], {}, r"a\.txt: not UTF-8 at byte 2"),
        (
            "a.txt",
            b"x" * (4 * 2**20 - 1) + "春".encode()[:2] + b"y",
            {},
            rf"not UTF-8 at byte {4 * 2**20 - 1}",
        ),
        ("a.txt", b"ok\nb\xff\n", {"document": "line"}, r"a\.txt: not UTF-8 at byte 4"),
        ("a.txt", b"ab\0cd", {}, r"a\.txt: binary file \(a NUL byte at byte 2\)"),
        ("a.txt", b"", {}, r"a\.txt: the file is empty"),
        ("a.exe", b"text", {}, r"a\.exe: unknown kind of file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', {}, r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', {}, r"a\.jsonl:2: not a JSON object"),
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"body": "b"}\n',
            {},
            r"a\.jsonl:3: has no field 'text' \(it has: body\)",
        ),
        ("a.jsonl", b'{"text": 5}\n', {}, r"a\.jsonl:1: field 'text' is not a string but int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, r"a\.jsonl:1: field 'text' holds half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', {}, r"a\.jsonl: not UTF-8 at byte 24"),
        ("a.csv", b"n,body\n1,x\n", {}, r"a\.csv: has no column 'text' \(it has: n, body\)"),
        (
            "a.csv",
            b"n,text\n1,x\n2\n",
            {},
            r"a\.csv:3: has 1 field, and the first line names 2 columns: there is none for 'text'",
        ),
        ("a.csv", b'n,text\n1,"x\n', {}, r"a\.csv:2: not valid CSV"),
        ("a.parquet", b"PAR1 no", {}, r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_bad_text_is_named_with_its_place(
    tmp_path: Path, name: str, data: bytes, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(write(tmp_path / name, data), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt.gz", gzip.compress(b"text" * 999, mtime=0)), ("a.txt.zst", zstandard.compress(b"ab" * 99))],
)
def test_a_broken_archive_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data[:8] + b"\xff\xff\xff" + data[11:-6])
    with pytest.raises(InputError, match=r"broken (gzip|zstd) file"):
        read(tmp_path / name)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("known_size", [False, True])
def test_a_zst_file_that_was_cut_anywhere_is_named(tmp_path: Path, checksum: bool, known_size: bool) -> None:
    packer = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=known_size)
    noise = random.Random(1).randbytes(150_000).hex().encode()  # several blocks, and one that is a run
    frame, skippable = packer.compress(noise + b"a" * 300_000), b"\x53\x2a\x4d\x18\x03\0\0\0abc"
    whole = tmp_path / "whole.txt.zst"
    whole.write_bytes(skippable + frame + packer.compress(b"") + frame)
    assert read(whole) == [(noise + b"a" * 300_000).decode() * 2]
    data = whole.read_bytes()
    cut = tmp_path / "cut.txt.zst"
    for length in (
        1,
        3,
        6,
        13,
        17,
        30,
        len(frame) // 2,
        len(frame) + 10,
        len(frame) + 13,
        len(data) - 5,
        len(data) - 1,
    ):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.txt\.zst: broken zstd file"):
            read(cut)


def test_parquet_without_the_column_or_with_empty_cells_is_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: has no column 'text' \(it has: body\)"):
        read(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: row 2: field 'text' is not a string"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize("source", ["missing.txt", "missing/*.txt"])
def test_a_source_that_names_nothing_is_an_error(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match="missing"):
        resolve_sources([tmp_path / source])
    with pytest.raises(InputError, match="no text was named"):
        resolve_sources([])


def test_skipping_counts_by_reason_and_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": \n{"body": "b"}\n{"text": "\xff"}\n{"text": "e"}\n'
    )
    problems = Problems("skip")
    assert read(path, problems=problems) == ["a", "e"]
    assert problems.skipped == {"broken line": 1, "no text field": 1, "not UTF-8": 1}
    assert problems.first is not None
    assert ":2:" in problems.first


def test_hub_names_are_taken_apart() -> None:
    found = parse_hub_name("hf:Salesforce/wikitext:wikitext-103-raw-v1")
    assert (found.name, found.config, found.split) == ("Salesforce/wikitext", "wikitext-103-raw-v1", "train")
    found = parse_hub_name("hf:squad::validation")
    assert (found.name, found.config, found.split) == ("squad", None, "validation")
    for bad in ("hf:", "hf:a/b/c", "hf:a:b:c:d"):
        with pytest.raises(InputError, match="hf:owner/dataset"):
            parse_hub_name(bad)


def test_hub_datasets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return ({"text": text} for text in ("a", "b"))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read("hf:owner/name:config") == ["a", "b"]
    assert asked == [(("owner/name", "config"), {"split": "train", "streaming": True})]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_, **__):
        raise ConnectionError("cannot reach\nthe Hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(
        InputError, match=r"hf:owner/name::train: cannot be read from the Hub \(cannot reach the Hub\)"
    ):
        read("hf:owner/name")


def test_the_datasets_package_reads_a_local_dataset_as_one_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    real = datasets.load_dataset
    write(tmp_path / "train.jsonl", jsonl("a", "b"))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, **rest: real("json", data_dir=str(tmp_path), **rest)
    )
    assert read("hf:owner/name") == ["a", "b"]


@pytest.mark.parametrize(
    ("package", "source"),
    [("datasets", "hf:owner/name"), ("pyarrow", "a.parquet"), ("zstandard", "a.txt.zst")],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, source: str
) -> None:
    if package == "zstandard" and sys.version_info >= (3, 14):
        pytest.skip("Python reads .zst itself")
    real = builtins.__import__

    def without(name: str, *rest):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    where = source if source.startswith("hf:") else write(tmp_path / source, b"x")
    with pytest.raises(InputError, match=r"pip install 'newleaf\[data\]'"):
        read(where)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"document": "page"}, "document"),
        ({"on_error": "ignore"}, "on_error"),
        ({"normalize": "nfd"}, "normalize"),
        ({"dedup": "fuzzy"}, "dedup"),
        ({"layout": "rows"}, "layout"),
        ({"val_fraction": 0}, "val_fraction"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"limit": 0}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"min_length": -1}, "min_length"),
        ({"stride": 4}, "stride"),
        ({"field": ""}, "field"),
        ({"whitespace": "yes"}, "whitespace"),
        ({"validation_limit": 4}, "validation_limit"),
    ],
)
def test_an_impossible_option_is_named(options: dict, field: str) -> None:
    with pytest.raises(InputError, match=rf"data\.{field}: "):
        DataConfig(**options)
