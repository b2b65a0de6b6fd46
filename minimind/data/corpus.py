"""Corpora as streams: JSON Lines files (`.gz`, `.zst` too), globs, and Hugging Face datasets.

Nothing here holds more than one batch of lines, so a corpus may be larger than memory. A line is read as bytes and
parsed later (by a worker, many at once); what is wrong with it is said with its file and line number.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from glob import glob
from hashlib import blake2b
from os.path import isfile  # Path.is_file raises where a folder on the way may not be looked into
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from minimind.console import warn
from minimind.data import datasets_hub
from minimind.data.conversations import Conversation, read_conversation
from minimind.data.preferences import Pair, read_pair
from minimind.errors import UserError, optional
from minimind.text import mend_json, utf8

Kind: TypeAlias = Literal["text", "sft", "dpo"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Document: TypeAlias = str | Conversation | Pair
T = TypeVar("T")
MANIFEST = "manifest.json"
"""The file by which a folder of prepared shards is known."""
BATCH_BYTES = 1 << 20
LONGEST_LINE = 64 << 20
ZSTD_BYTES = 1 << 14
"""Read at a time: what they decompress to, of text a few times as much, is held in memory."""
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_]")


class Position(NamedTuple):
    """Where the next line begins: which file, after how many of its lines and (decompressed) bytes."""

    file: int = 0
    line: int = 0
    offset: int = 0


BEGINNING = Position()


class Batch(NamedTuple):
    """Neighbouring lines of one file."""

    file: str
    lines: list[tuple[int, bytes]]
    """Line number, counted from 1, and content."""
    end: Position
    disk_bytes: int
    """How far the batch moved through the file on disk, for progress bars."""
    mended: int = 0
    """Lines in which half a surrogate pair became U+FFFD (`minimind.text`)."""


class BadLine(UserError):
    """What is wrong with one line, and which it is."""


def expand(files: Sequence[str | Path]) -> list[str]:
    """Resolve globs, in sorted order; `hf:NAME` and directories stay as they are.

    Raises:
        UserError: no file, a file that is missing or empty, a glob that fits nothing, a pipe, prepared shards.
    """
    found: list[str] = []
    for name in map(str, files):
        matches = [name] if datasets_hub.is_dataset(name) or isfile(name) else sorted(glob(name, recursive=True))
        if not matches:
            raise UserError(f"{name}: there is no such file; name JSON Lines files, a glob, or hf:DATASET")
        found += matches
    if not found:
        raise UserError("no data is named; name JSON Lines files, a glob, or hf:DATASET")
    for name in found:
        if isfile(Path(name, MANIFEST)):
            raise UserError(
                f"{name} holds prepared shards: only training reads them, and alone; name the files they were made from"
            )
        if datasets_hub.is_dataset(name):
            continue
        if not isfile(name):
            raise UserError(f"{name} is no file; what comes from a pipe cannot be read twice: write it to a file first")
        if Path(name).stat().st_size == 0:
            raise UserError(f'{name} is empty; it needs one JSON object a line, like {{"text": "..."}}')
    return found


def read_batches(files: Sequence[str], start: Position = BEGINNING, batch_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
    """Read the non-blank lines of expanded `files` from `start` on, about `batch_bytes` at a time.

    Batches depend on nothing but the files and `start`, so reading on from a batch's `end` gives the same ones.

    Raises:
        UserError: a file cannot be read or decompressed.
    """
    for index in range(start.file, len(files)):
        here = start if index == start.file else Position(index)
        try:
            yield from _batches_of(files[index], here, batch_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{files[index]}: cannot be read ({error}); fetch the file again") from error


def _batches_of(file: str, start: Position, batch_bytes: int) -> Iterator[Batch]:
    if datasets_hub.is_dataset(file):
        yield from _cut(file, datasets_hub.read_lines(file, start.line), start, batch_bytes)
        return
    with Path(file).open("rb") as raw:
        stream = _decompressed(file, raw)
        if stream is raw:
            raw.seek(start.offset)
        else:
            left = start.offset
            while left and (skipped := stream.read(min(left, 1 << 20))):
                left -= len(skipped)
        yield from _cut(file, _lines(stream), start, batch_bytes, raw)


def _cut(
    file: str, lines: Iterator[tuple[bytes, int]], start: Position, batch_bytes: int, raw: BinaryIO | None = None
) -> Iterator[Batch]:
    number, offset, size, mended = start.line, start.offset, 0, 0
    on_disk = raw.tell() if raw and start.offset else 0
    batch: list[tuple[int, bytes]] = []
    for line, length in lines:
        number += 1
        offset += length
        size += len(line)
        if line.strip():
            line, lone = mend_json(line)
            mended += lone > 0
            batch.append((number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line))
        if size >= batch_bytes:
            now = raw.tell() if raw else 0
            yield Batch(file, batch, Position(start.file, number, offset), now - on_disk, mended)
            batch, size, on_disk, mended = [], 0, now, 0
    yield Batch(file, batch, Position(start.file + 1), (raw.tell() if raw else 0) - on_disk, mended)


def _lines(stream: BinaryIO | gzip.GzipFile) -> Iterator[tuple[bytes, int]]:
    """Lines and their lengths; of one longer than memory should bear only the beginning, which `parse` refuses."""
    while line := stream.readline(LONGEST_LINE + 1):
        length, rest = len(line), line
        while len(line) > LONGEST_LINE and not rest.endswith(b"\n"):
            if not (rest := stream.readline(1 << 20)):
                break
            length += len(rest)
        yield line, length


def _decompressed(file: str, raw: BinaryIO) -> BinaryIO | gzip.GzipFile:
    if file.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if file.endswith(".zst"):
        with optional(f"{file}: reading .zst needs a library; pip install 'minimind[data]'"):
            import zstandard
        return io.BufferedReader(_Pieces(_frames(raw, zstandard)), 1 << 20)
    return raw


def _frames(raw: BinaryIO, zstandard: Any) -> Iterator[bytes]:
    """Decompress a `.zst` file; the library's own reader takes one that ends within a frame for whole.

    Raises:
        EOFError: it does, as `gzip` says it.
        OSError: it is damaged.
    """
    data = raw.read(ZSTD_BYTES)
    try:
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            while not frame.eof:
                if not (data := raw.read(ZSTD_BYTES)):
                    raise EOFError("compressed file ended before the end of a frame")
                yield frame.decompress(data)
            data = frame.unused_data or raw.read(ZSTD_BYTES)
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from error


class _Pieces(io.RawIOBase):
    """Pieces of bytes as one file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = filter(None, pieces)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._piece = self._piece or memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count


def read_object(line: bytes) -> dict[str, Any]:
    """Read one line's JSON object.

    Raises:
        UserError: what is wrong with it.
    """
    if len(line) > LONGEST_LINE:
        raise UserError(f"it is longer than {LONGEST_LINE >> 20} MB")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON ({error.msg} at character {error.pos})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"not a JSON object but {type(row).__name__}")
    return row


def parse(line: bytes, kind: Kind) -> Document:
    """Turn one line into its document.

    Raises:
        UserError: what is wrong with it.
    """
    return _READ[kind](read_object(line))


def text_of(row: dict[str, Any]) -> str:
    """A line's text.

    Raises:
        UserError: what is wrong with it.
    """
    if "text" not in row:
        raise UserError(f"no field 'text' (it has {', '.join(map(repr, list(row)[:5])) or 'no fields'})")
    text = row["text"]
    if not isinstance(text, str):
        raise UserError(f"'text' is {type(text).__name__}, not a string")
    if not text.strip():
        raise UserError("'text' is empty")
    return text


_READ: dict[Kind, Callable[[dict[str, Any]], Document]] = {"text": text_of, "sft": read_conversation, "dpo": read_pair}


def parsed(batch: Batch, read: Callable[[bytes], T]) -> Iterator[T | BadLine]:
    """What `read` makes of each line of a batch; where it raises, what is wrong with the line."""
    for number, line in batch.lines:
        try:
            yield read(line)
        except UserError as error:
            yield BadLine(f"{batch.file} line {number}: {error}")


def read_documents(
    files: Sequence[str | Path], kind: Kind = "text", on_bad_line: Literal["stop", "skip"] = "stop"
) -> Iterator[Document]:
    """Stream the documents of `files`: texts, conversations or pairs; otherwise as `read_lines`."""
    return read_lines(files, partial(parse, kind=kind), on_bad_line)


def read_lines(
    files: Sequence[str | Path], read: Callable[[bytes], T], on_bad_line: Literal["stop", "skip"] = "stop"
) -> Iterator[T]:
    """Stream what `read` makes of the lines of `files`; skipped ones are counted at the end.

    Raises:
        UserError: a file that is missing, empty or unreadable; a bad line, unless `on_bad_line` is "skip".
    """
    skipped, first, mended = 0, "", 0
    for batch in read_batches(expand(files)):
        mended += batch.mended
        for row in parsed(batch, read):
            if not isinstance(row, BadLine):
                yield row
            elif on_bad_line == "stop":
                raise stopped_at(str(row))
            else:
                skipped, first = skipped + 1, first or str(row)
    tell_of_lines(skipped, first, mended)


def tell_of_lines(skipped: int, first: str, mended: int) -> None:
    """Warn of lines that were left out (`first`: about the first of them), and of those that were mended."""
    if skipped:
        warn(f"{skipped:,} bad lines left out; the first: {first}")
    if mended:
        warn(f"{mended:,} lines hold half a surrogate pair (as \\ud83d alone), which is no character: it became U+FFFD")


def stopped_at(sentence: str) -> UserError:
    """The error that a bad line raises when it is not skipped."""
    return UserError(
        f"{sentence}; correct the line, or leave such lines out (--on-bad-line skip; in a recipe, data.on_bad_line)"
    )


def content(document: Document) -> str:
    """What identifies a document: its text, or its turns and tools as JSON."""
    if isinstance(document, str):
        return document
    if isinstance(document, Pair):
        return f"{content(document.chosen)}\n{content(document.rejected)}"
    return json.dumps([document.messages, document.tools], ensure_ascii=False, sort_keys=True)


def said(document: Document) -> Iterator[str]:
    """The text of a document: of a conversation, everything that is said in it; of a pair, in both."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, Pair):
        yield from (text for one in (document.chosen, document.rejected) for text in said(one))
    else:
        keys = ("reasoning_content", "content")
        yield from (turn[key] for turn in document.messages for key in keys if turn.get(key))


def content_hash(document: Document) -> int:
    """64 bits of the document's content, equal for equal documents wherever and whenever they are read."""
    data = utf8(content(document))
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def is_held_out(hashes: Any, fraction: float) -> Any:
    """Whether documents with these content hashes (an int or an array) belong to the validation split.

    The hash alone decides: a document never changes sides when files grow, and its duplicates are on the same side.
    """
    return hashes < min(int(fraction * 2**64), 2**64 - 1)


def language(text: str) -> Literal["zh", "en", "mixed"]:
    """`zh` where over half of the letters are Han, `en` (or any other) where under 2 % are, else `mixed`."""
    letters = len(_LETTER.findall(text))
    share = len(_HAN.findall(text)) / max(1, letters)
    return "zh" if share > 0.5 else "en" if share < 0.02 else "mixed"
