import gzip
import json
import os
import sys
import zlib

import pytest
import zstandard

from minimind.data.corpus import (
    MANIFEST,
    Position,
    content_hash,
    expand,
    is_held_out,
    language,
    read_batches,
    read_documents,
)
from minimind.errors import UserError

ROWS = [{"text": f"line {n} 第{n}行"} for n in range(50)]
TEXTS = [row["text"] for row in ROWS]


def as_jsonl(rows):
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("bom.jsonl", lambda data: b"\xef\xbb\xbf" + data),
        ("crlf.jsonl", lambda data: data.replace(b"\n", b"\r\n")),
        ("blank.jsonl", lambda data: data.replace(b"\n", b"\n\n  \n")),
        ("open.jsonl", lambda data: data[:-1]),
        ("frames.zst", lambda data: zstandard.compress(data[:100]) + zstandard.compress(data[100:])),
    ],
)
def test_every_way_of_writing_lines(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(as_jsonl(ROWS)))
    assert list(read_documents([tmp_path / name])) == TEXTS


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_reading_on_from_any_batch_gives_the_same_batches(tmp_path, pack):
    suffix = {gzip.compress: ".gz", zstandard.compress: ".zst"}.get(pack, "")
    names = []
    for part in ("a", "b"):
        names.append(str(tmp_path / f"{part}.jsonl{suffix}"))
        (tmp_path / names[-1]).write_bytes(pack(as_jsonl(ROWS)))
    whole = [batch[:3] for batch in read_batches(names, batch_bytes=300)]
    assert len(whole) == 10
    for index, (_, _, end) in enumerate(whole):
        assert [batch[:3] for batch in read_batches(names, end, batch_bytes=300)] == whole[index + 1 :]


def test_globs_are_sorted(write_jsonl, tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        write_jsonl(name, [{"text": name}])
    assert list(read_documents([f"{tmp_path}/*.jsonl"])) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "cut', "not valid JSON"),
        (b'{"text": "\xff\xfe"}', "byte 10 is not UTF-8"),
        (b'["text"]', "not a JSON object but list"),
        (b'{"txt": "a"}', r"no field 'text' \(it has 'txt'\)"),
        (b'{"text": 3}', "'text' is int, not a string"),
        (b'{"text": "  "}', "'text' is empty"),
        (b'{"text": ' + b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path, line, what):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(UserError, match=rf"bad\.jsonl line 3: .*{what}.*--on-bad-line skip"):
        list(read_documents([path]))
    assert list(read_documents([path], on_bad_line="skip")) == ["a", "b"]


def test_a_line_too_long_for_memory_is_one_bad_line(tmp_path, monkeypatch):
    monkeypatch.setattr("minimind.data.corpus.LONGEST_LINE", 1000)
    path = tmp_path / "long.jsonl"
    path.write_bytes(as_jsonl([{"text": "a"}, {"text": "x" * 5000}, {"text": "b"}]))
    assert list(read_documents([path], on_bad_line="skip")) == ["a", "b"]


def test_missing_and_empty_files(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    for name, what in (("none.jsonl", "no such file"), ("*.gz", "no such file"), ("empty.jsonl", "is empty")):
        with pytest.raises(UserError, match=what):
            expand([tmp_path / name])
    with pytest.raises(UserError, match="no data is named"):
        expand([])


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"not an archive at all",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + data[:-1],
        lambda data: data[:10] + b"\xff" * 8 + data[18:],
        lambda data: data + b"behind it",
    ],
    ids=["other", "half", "last byte", "second frame", "overwritten", "behind"],
)
def test_a_damaged_archive_is_named(tmp_path, suffix, damage):
    name = f"damaged.jsonl{suffix}"
    whole = as_jsonl([{"text": f"{n} {zlib.crc32(b'%d' % n)}"} for n in range(3000)])
    pack = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    (tmp_path / name).write_bytes(damage(pack(whole)))
    with pytest.raises(UserError, match=rf"{name}: cannot be read"):
        list(read_documents([tmp_path / name], on_bad_line="skip"))
    with pytest.raises(UserError, match=rf"{name}: cannot be read"):  # as a build that goes on reads
        list(read_batches([str(tmp_path / name)], Position(0, 3000, 2 * len(whole))))


@pytest.mark.skipif(sys.platform == "win32", reason="makes a named pipe")
def test_a_pipe_is_no_corpus(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe is no file; .* cannot be read twice: write it to a file"):
        expand([tmp_path / "pipe"])


def test_prepared_shards_are_no_corpus(write_jsonl, tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=r"prepared holds prepared shards.*; name the files they were made from"):
        expand([write_jsonl("c.jsonl", ROWS), tmp_path / "prepared"])


def test_a_saved_dataset_streams(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert list(read_documents([tmp_path / "saved"])) == TEXTS
    assert list(read_documents([f"hf:{tmp_path / 'saved'}"])) == TEXTS


@pytest.mark.parametrize(
    "other", [b'{"conversations": []}\n', b'{"text": "cut'], ids=["columns of another kind", "a cut line"]
)
def test_a_directory_that_cannot_be_read_to_its_end(tmp_path, other):
    pytest.importorskip("datasets")
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "a.jsonl").write_bytes(as_jsonl(ROWS))
    (tmp_path / "mix" / "b.jsonl").write_bytes(other)
    with pytest.raises(UserError, match=r"mix: cannot be read as a dataset \(.*\); name its files, as in .*\*\.jsonl$"):
        list(read_documents([tmp_path / "mix"]))


def test_a_directory_whose_rows_hold_dates(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "dated").mkdir()
    (tmp_path / "dated" / "a.jsonl").write_bytes(as_jsonl([{"text": "a", "timestamp": "2019-04-25T12:57:54Z"}]))
    assert list(read_documents([tmp_path / "dated"])) == ["a"]


def test_a_directory_that_is_no_dataset(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match="cannot be opened as a dataset"):
        list(read_documents([tmp_path]))


def test_the_split_depends_on_content_alone():
    sides = {text: is_held_out(content_hash(text), 0.2) for text in map(str, range(2000))}
    assert 0.16 < sum(sides.values()) / len(sides) < 0.24
    assert all(is_held_out(content_hash(text), 0.4) for text, held_out in sides.items() if held_out)
    assert not any(is_held_out(content_hash(text), 0.0) for text in sides)


def test_language():
    assert language("今天天气很好") == "zh"
    assert language("The weather is fine, 2024!") == "en"
    assert language("The word 你好 means hello") == "mixed"
    assert language("1 + 1 = 2") == "en"
