import errno
import os

import pytest

from minimind import files
from minimind.errors import UserError


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "你好 \ud83d\r\n")
    assert path.read_bytes() == "你好 \ufffd\r\n".encode()

    def fail():
        with files.atomic_write(path) as draft:
            draft.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert os.listdir(tmp_path) == ["a.txt"]
    assert files.read_text(path) == "你好 \ufffd\r\n"


def test_what_cannot_be_read_is_said_with_its_name(tmp_path):
    cases = {
        "bytes.json": (b'{"a": "\xc4\xe3"}', "not UTF-8 .byte 7"),
        "cut.json": (b'{"a": ', "not readable JSON"),
        "deep.json": (b"[" * 100_000, "nested too deeply"),
        "list.json": (b"[]", "JSON object"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*{words}"):
            files.read_json(tmp_path / name)
    with pytest.raises(UserError, match="missing"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d"}')
    assert files.read_json(tmp_path / "bom.json") == {"a": "\ufffd"}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".model.json.4711.tmp").write_text("half")
    for name in ("model.json", ".notes.tmp"):
        (tmp_path / name).write_text("{}")
    files.remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", "model.json"]


def test_what_cannot_be_hashed_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
        files.sha256_of(tmp_path)
