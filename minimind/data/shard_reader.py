"""Reading token shards: memory-mapped, so a corpus larger than memory is read like a small one."""

from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minimind.data.corpus import MANIFEST, Kind, is_held_out
from minimind.data.encoding import DOCUMENT
from minimind.data.shard_files import FORMAT, damaged, read_json
from minimind.errors import UserError
from minimind.files import sha256_of


class Shards:
    """Read-only documents of tokens; iterating gives (ids, supervised) of each, in the corpus's order."""

    def __init__(self, folder: Path, manifest: dict[str, Any], chosen: np.ndarray | None = None) -> None:
        """Use `Shards.open`, `build` or `ensure`; `chosen` are the indices of a split's documents."""
        self.folder = folder
        self.manifest = manifest
        self.key: str = manifest["key"]
        self.kind: Kind = manifest["options"]["kind"]
        self.has_mask = self.kind != "text"
        dtype = np.dtype(manifest["dtype"])
        entries = manifest["shards"]
        self._tokens = [_mapped(folder / entry["files"]["tokens"]["name"], dtype) for entry in entries]
        self._masks = [_mapped(folder / e["files"]["mask"]["name"], np.uint8) for e in entries] if self.has_mask else []
        self._shard_starts = np.array([0, *accumulate(entry["tokens"] for entry in entries)])
        self._tables = [_mapped(folder / entry["files"]["documents"]["name"], DOCUMENT) for entry in entries]
        self._chosen = chosen

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([table[name] for table in self._tables])

    def _of_split(self, array: np.ndarray) -> np.ndarray:
        return array if self._chosen is None else array[self._chosen]

    @cached_property
    def hashes(self) -> np.ndarray:
        """Content hash of each document, uint64 `[documents]`."""
        return self._of_split(self._column("hash"))

    @cached_property
    def bytes(self) -> np.ndarray:
        """UTF-8 bytes of each document's content, uint32 `[documents]`."""
        return self._of_split(self._column("bytes"))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, uint32 `[documents]`."""
        return self._of_split(self._column("length"))

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each document begins in the row of all tokens, int64 `[documents]`."""
        lengths = self._column("length")
        return self._of_split(np.cumsum(lengths, dtype=np.int64) - lengths)

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Map the shards in `folder`.

        Raises:
            UserError: it holds no finished shards, or a file is missing or has another size than it was written with.
        """
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            raise UserError(f"{folder} holds no finished token shards; build them with `minimind data prepare`")
        if manifest.get("format") != FORMAT:
            raise UserError(f"{folder} was written by another version of MiniMind; delete it and build it again")
        for path, expected in _files(folder, manifest):
            size = path.stat().st_size if path.is_file() else None
            if size != expected["bytes"]:
                raise damaged(path, "missing" if size is None else f"{size} bytes instead of {expected['bytes']}")
        return cls(folder, manifest)

    def verify(self) -> None:
        """Read everything and compare it with the checksums of the manifest.

        Raises:
            UserError: naming the file that differs.
        """
        for path, expected in _files(self.folder, self.manifest):
            if sha256_of(path) != expected["sha256"]:
                raise damaged(path, "its checksum differs")

    def split(self, side: Literal["train", "valid"], valid_fraction: float) -> "Shards":
        """The documents of one side; the hash of its content decides to which a document belongs."""
        held_out = is_held_out(self.hashes, valid_fraction)
        chosen = np.flatnonzero(held_out if side == "valid" else ~held_out)
        return Shards(self.folder, self.manifest | {"key": f"{self.key}/{side}/{valid_fraction}"}, chosen)

    @property
    def documents(self) -> int:
        """How many documents."""
        return sum(map(len, self._tables)) if self._chosen is None else len(self._chosen)

    @property
    def tokens(self) -> int:
        """How many tokens, bos and eos included."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def summary(self) -> str:
        """In words, how much there is."""
        return f"{self.documents:,} documents, {self.tokens:,} tokens"

    @property
    def mean_length(self) -> float:
        """Tokens of a document that a token is in on average: the context that attention really sees."""
        squares = np.square(self.lengths.astype(np.float64)).sum()
        return float(squares / max(1, self.tokens))

    def read(self, start: int, length: int) -> np.ndarray:
        """Token ids `[length]` from `start` on (see `starts`), as stored; never across documents."""
        shard, offset = self._locate(start)
        return self._tokens[shard][offset : offset + length]

    def read_mask(self, start: int, length: int) -> np.ndarray:
        """Which of the tokens that `read` gives are supervised, bool `[length]`."""
        if not self.has_mask:
            return np.ones(length, dtype=bool)
        return (self._marks(start, length) & 1).view(bool)

    def read_branches(self, start: int, length: int) -> np.ndarray:
        """Of pairs, to what each token belongs: 0 the prompt, 1 the chosen answer, 2 the other; uint8 `[length]`."""
        return self._marks(start, length) >> 1

    def _marks(self, start: int, length: int) -> np.ndarray:
        shard, offset = self._locate(start)
        return self._masks[shard][offset : offset + length]

    def _locate(self, start: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._shard_starts, start, side="right")) - 1
        return shard, start - int(self._shard_starts[shard])

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            yield self.read(start, length), self.read_mask(start, length)


def _mapped(path: Path, dtype: Any) -> np.ndarray:
    """The file as an array; an empty one cannot be mapped. A plain ndarray slices faster than a memmap."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _files(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for shard in manifest["shards"]:
        for file in shard["files"].values():
            yield folder / file["name"], file
