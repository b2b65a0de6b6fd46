"""From lines to token ids: what every worker of a shard build does to one batch. No torch in here."""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Literal

import numpy as np

from minimind.data.conversations import Conversation, chance, check_answers, encode, with_system_prompt
from minimind.data.corpus import BadLine, Batch, Document, Kind, content_hash, parse, parsed, said
from minimind.data.preferences import Pair, encode_pair
from minimind.errors import UserError
from minimind.text import utf8
from minimind.tokenizer.bpe import Tokenizer

DOCUMENT = np.dtype([("hash", "<u8"), ("bytes", "<u4"), ("length", "<u4")])
"""What is kept of each document: content hash, UTF-8 bytes of its content, tokens."""


@dataclass(frozen=True)
class Options:
    """What decides, besides corpus and tokenizer, which tokens a corpus becomes (fields as in recipes)."""

    kind: Kind = "text"
    on_bad_line: Literal["stop", "skip"] = "stop"
    max_length: int | None = None
    """Longest conversation in tokens, or prompt with both answers; texts are never too long."""
    too_long: Literal["drop_oldest", "skip"] = "drop_oldest"
    random_system_prompt: float = 0.0
    drop_empty_think: float = 0.0


@dataclass
class Counts:
    """What a build has seen; counts of two batches add up with `+=`."""

    documents: int = 0
    tokens: int = 0
    supervised: int = 0
    bytes: int = 0
    bad_lines: int = 0
    mended: int = 0
    """Lines in which half a surrogate pair became U+FFFD."""
    shortened: int = 0
    """Conversations that lost their oldest turns."""
    dropped_turns: int = 0
    dropped: int = 0
    """Conversations left out: too long, or nothing supervised left."""
    first_bad: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Counts") -> "Counts":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        del self.first_bad[5:]
        return self


@dataclass
class Encoded:
    """One batch as arrays: tokens [n], marks [n] (not of texts), documents [d] of DOCUMENT.

    A mark is 1 where a token is supervised; of pairs it also says to which answer it belongs (`preferences`).
    """

    tokens: np.ndarray
    mask: np.ndarray | None
    documents: np.ndarray
    counts: Counts


class Encoder:
    """Encodes batches of lines with one tokenizer and one set of options."""

    def __init__(self, tokenizer: Tokenizer, options: Options) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.dtype = token_dtype(tokenizer)

    def __call__(self, batch: Batch) -> Encoded:
        """Encode the documents of a batch.

        Bad lines are counted and described in `counts.first_bad`; whether they stop the build is the caller's affair.
        """
        counts = Counts(mended=batch.mended)
        documents: list[Document] = []
        for document in parsed(batch, self._read):
            if isinstance(document, BadLine):
                counts.bad_lines += 1
                counts.first_bad.append(str(document))
            else:
                documents.append(document)
        del counts.first_bad[5:]
        hashes = np.array([content_hash(document) for document in documents], dtype="<u8")
        sizes = np.array([sum(len(utf8(text)) for text in said(document)) for document in documents], dtype="<u4")
        if self.options.kind == "text":
            pieces = self._texts([document for document in documents if isinstance(document, str)])
            masks, kept = None, list(range(len(documents)))
        else:
            pieces, masks, kept = self._conversations(documents, hashes, counts)
        table = np.zeros(len(pieces), dtype=DOCUMENT)
        table["hash"], table["bytes"] = hashes[kept], sizes[kept]
        table["length"] = [len(piece) for piece in pieces]
        counts.documents, counts.tokens = len(table), int(table["length"].sum())
        counts.bytes = int(table["bytes"].sum())
        mask = None if masks is None else _joined(masks, np.uint8)
        counts.supervised = counts.tokens if mask is None else int((mask & 1).sum())
        return Encoded(_joined(pieces, self.dtype), mask, table, counts)

    def _read(self, line: bytes) -> Document:
        document = parse(line, self.options.kind)
        if isinstance(document, Conversation):
            check_answers(document)
        return document

    def _texts(self, texts: list[str]) -> list[np.ndarray]:
        """bos + text + eos, each once a document; a tokenizer without one of them leaves it out."""
        before, after = np.array(self.tokenizer.bos, self.dtype), np.array(self.tokenizer.eos, self.dtype)
        encoded = self.tokenizer.encode_batch(texts)
        return [np.concatenate([before, np.asarray(ids, self.dtype), after]) for ids in encoded]

    def _conversations(
        self, documents: list[Document], hashes: np.ndarray, counts: Counts
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
        """Ids and marks of the conversations or pairs that fit, and which those are."""
        pieces, masks, kept = [], [], []
        for index, (document, key) in enumerate(zip(documents, hashes.tolist(), strict=True)):
            result = self._encode(document, key)
            if result is None:
                counts.dropped += 1
                continue
            ids, mask, dropped_turns = result
            counts.shortened += dropped_turns > 0
            counts.dropped_turns += dropped_turns
            pieces.append(np.asarray(ids, self.dtype))
            masks.append(np.asarray(mask, np.uint8))
            kept.append(index)
        return pieces, masks, kept

    def _encode(self, document: Document, key: int) -> tuple[Any, Any, int] | None:
        options = self.options
        how: dict[str, Any] = {
            "max_length": options.max_length,
            "drop_oldest": options.too_long == "drop_oldest",
            "keep_empty_think": chance(key, "empty think") >= options.drop_empty_think,
        }
        if isinstance(document, Pair):
            return encode_pair(document.with_system_prompt(key, options.random_system_prompt), self.tokenizer, **how)
        assert isinstance(document, Conversation)
        return encode(with_system_prompt(document, key, options.random_system_prompt), self.tokenizer, **how)


_encoder: Encoder


def _start_worker(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker holds both ends of its queue: it would wait for ever for a process that was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(batch: Batch) -> Encoded:
    return _encoder(batch)


def in_pool(batches: Iterable[Batch], encoder: Encoder, workers: int) -> Iterator[tuple[Batch, Encoded]]:
    """Encode batches in `workers` processes, in order, with a bounded number of them on their way."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (encoder,))
    waiting: deque[tuple[Batch, Future[Encoded]]] = deque()
    try:
        for batch in batches:
            with _uninterrupted():
                waiting.append((batch, pool.submit(_work, batch)))
            if len(waiting) > 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    except BrokenProcessPool:
        raise UserError("a tokenizing process was killed, probably for lack of memory; run the command again") from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started in here never hear of Ctrl-C: it is for this one, whose end is theirs."""
    mask = getattr(signal, "pthread_sigmask", None)  # which Windows does not have
    old = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else ()
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, old)


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """Two bytes a token where every id fits, else four."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _joined(arrays: list[np.ndarray], dtype: np.dtype | type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)
