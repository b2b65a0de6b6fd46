"""Files of token shards: written under another name, flushed to the disk, renamed; so each is whole or absent."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from minimind import files
from minimind.data.corpus import MANIFEST
from minimind.data.encoding import Encoded
from minimind.errors import UserError

FORMAT = 1
PROGRESS = "progress.json"
UNFINISHED = ".unfinished"
LOCK = ".lock"


class ShardWriter:
    """Appends encoded batches to one shard: tokens, documents and, of conversations, the supervised mask."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.tokens = 0
        self.documents = 0
        self._files: dict[str, BinaryIO] = {}
        self._hashes: dict[str, Any] = {}

    def add(self, batch: Encoded) -> None:
        """Append one batch."""
        self._write("tokens", batch.tokens)
        self._write("documents", batch.documents)
        if batch.mask is not None:
            self._write("mask", batch.mask)
        self.tokens += len(batch.tokens)
        self.documents += len(batch.documents)

    def _write(self, part: str, array: Any) -> None:
        if part not in self._files:
            self._files[part] = (self.folder / f"{self._name(part)}{UNFINISHED}").open("wb")
            self._hashes[part] = hashlib.sha256()
        data = memoryview(array).cast("B") if array.size else b""
        self._files[part].write(data)
        self._hashes[part].update(data)

    def _name(self, part: str) -> str:
        return f"{part}-{self.number:05d}.bin"

    def finish(self) -> dict[str, Any]:
        """Make the shard durable and return its manifest entry."""
        entry: dict[str, Any] = {"tokens": self.tokens, "documents": self.documents, "files": {}}
        for part, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
            file.close()
            target = self.folder / self._name(part)
            target.with_name(target.name + UNFINISHED).replace(target)
            entry["files"][part] = {"name": target.name, "bytes": size, "sha256": self._hashes[part].hexdigest()}
        return entry

    def abandon(self) -> None:
        """Close and remove what is unfinished."""
        for part, file in self._files.items():
            with suppress(OSError):  # closing flushes: on a full disk that fails once more
                file.close()
            (self.folder / f"{self._name(part)}{UNFINISHED}").unlink(missing_ok=True)


def check_ours(folder: Path) -> None:
    """Refuse a folder with files that no build wrote: each deletes what an earlier one has left.

    Raises:
        UserError: it is one, or the record of an earlier build is damaged.
    """
    found = [path.name for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(f".{PROGRESS}.")]
    record = read_json(folder / PROGRESS) or read_json(folder / MANIFEST) or {}
    if found and "shard_tokens" not in record:
        raise UserError(f"{folder} holds other files (as {min(found)}); choose a new folder")


def remove_unfinished_build(folder: Path) -> None:
    """Remove what a build that cannot go on has left."""
    for part in ("tokens", "documents", "mask"):
        for path in folder.glob(f"{part}-*.bin*"):
            path.unlink()
    (folder / PROGRESS).unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return files.read_json(path)
    except UserError as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, what: str) -> UserError:
    """The error about a file that is not as it was written."""
    return UserError(f"{path} is damaged ({what}); delete the folder {path.parent} and it is built again")
