"""Files: each is written whole or not at all, and what is wrong with one is said in a sentence that names it."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minimind import runtime, text
from minimind.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path; afterwards sync it to the disk and move it to `path`, or leave nothing of it."""
    temporary = _draft_of(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_drafts(folder: Path) -> None:
    """Delete what a process that was killed in `atomic_write` left here; nobody else may be writing to `folder`."""
    for draft in folder.glob(".*.[0-9]*.tmp"):
        draft.unlink()


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, with the same line ends everywhere."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.utf8(content))


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write a value as strict JSON."""
    write_text(path, text.write_json(value, indent=indent) + "\n")


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        UserError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = text.read_json(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not readable JSON ({error})") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object")
    return content


def checksum(file: Path) -> int:
    """CRC-32: it is to find broken disks and cut writes, and takes a quarter of a cryptographic hash's time."""
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


@contextmanager
def folder_for(out: Path) -> Iterator[None]:
    """Make `out` before the long work begins, and take a new one away again if nothing was put into it.

    Raises:
        UserError: it cannot be made.
    """
    with writing_to(out):
        created = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if created and not any(out.iterdir()):
            out.rmdir()


def existing(path: Path) -> Path:
    """`path`, or of the folders that it would lie in the nearest that is there."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before the long work begins; its folder is not made yet.

    Raises:
        UserError: it is a folder, or nothing can be written there, or under that name.
    """
    with writing_to(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        draft = _draft_of(existing(path.parent) / path.name)
        draft.touch()
        draft.unlink()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn what the system says about a full disk or a read-only folder into one sentence about `folder`."""
    try:
        yield
    except OSError as error:
        other = "choose another folder"
        if runtime.cache_dir() in folder.parents:
            other = "set the environment variable MINIMIND_CACHE to another folder"
        if error.errno == errno.ENOSPC:
            raise UserError(f"{folder}: the disk is full; free some space there, or {other}") from None
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); {other}") from None
