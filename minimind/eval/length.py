"""Long contexts: bits per byte by position and by length of context, in memory that does not grow with its square.

A text is read in chunks through the key/value cache: of the scores between all pairs of its tokens only those of one
chunk exist at a time, and what grows with the context are keys and values alone. So 32,768 tokens fit anywhere.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from minimind.console import progress
from minimind.data.corpus import expand, read_documents
from minimind.errors import UserError
from minimind.files import read_text as read_file
from minimind.losses.lm import IGNORE, token_nll
from minimind.model.cache import KVCache, Span
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer

CHUNK = 256
"""Tokens read at a time."""
LONGEST = 32768
SHORTEST = 128
STRETCHES = 32
"""Points of the curve by position."""
MAX_CHARACTERS = 16
"""That a token stands for on average."""


class Text(NamedTuple):
    """One long text: token ids `[N]` and the bytes each stands for, 0 for tokens that are no text."""

    ids: np.ndarray
    bytes: np.ndarray


def read_texts(files: Sequence[str], on_bad_line: Literal["stop", "skip"] = "stop") -> Iterator[str]:
    """The documents of JSON Lines files; a `.txt` file is one document.

    Raises:
        UserError: as `read_documents`; a text that cannot be read, is no UTF-8 or is empty.
    """
    for file in expand(files):
        if not file.endswith(".txt"):
            yield from map(str, read_documents([file], on_bad_line=on_bad_line))
            continue
        text = read_file(Path(file))
        if not text.strip():
            raise UserError(f"{file} has no text in it")
        yield text


def read_text(texts: Iterable[str], tokenizer: Tokenizer, most: int) -> Text:
    """Encode texts until there are `most` tokens; documents follow each other as bos + text + eos."""
    ids: list[int] = []
    for text in texts:
        if len(ids) >= most:
            break
        # A book is one document: of it no more is encoded than can be needed.
        ids += tokenizer.bos if ids else []
        ids += [*tokenizer.encode(text[: MAX_CHARACTERS * (most - len(ids))]), *tokenizer.eos]
    sizes = [0 if tokenizer.is_special(id) else len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)]
    kept = np.array(ids[:most], dtype=np.int64)
    return Text(kept, np.array(sizes)[kept])


def lengths_within(tokens: int, asked: Sequence[int] = ()) -> list[int]:
    """The lengths to measure on a text of so many tokens: those asked for, or powers of two from 128.

    Raises:
        UserError: the text is too short.
    """
    least = max(asked, default=SHORTEST)
    if tokens < least:
        raise UserError(f"the text has {tokens:,} tokens, fewer than a context of {least:,}; name a longer one")
    powers = [2**power for power in range(SHORTEST.bit_length() - 1, LONGEST.bit_length())]
    return sorted(set(asked)) or [length for length in powers if length <= tokens]


@torch.inference_mode()
def long_nll(model: Transformer, ids: np.ndarray, labels: np.ndarray, cache: KVCache, start: int = 0) -> np.ndarray:
    """Negative log-likelihood (nats) of each label `[T]`, 0 where it is -100, of a document read chunk by chunk.

    `ids` `[T]` are its tokens from `start` on; those before are in the cache.
    """
    device, dtype = model.output_weight.device, cache.keys.dtype
    found = []
    for first in range(0, len(ids), CHUNK):
        chunk = slice(first, first + CHUNK)
        ids_1T = torch.from_numpy(ids[None, chunk]).to(device)
        span = Span(cache.all_pages, start + first, start + first + ids_1T.shape[1])
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            states = model(ids_1T, cache.read([span])).states
            found.append(token_nll(states, model.output_weight, torch.from_numpy(labels[chunk]).to(device)).cpu())
    return torch.cat(found).double().numpy()


def window_bits(
    model: Transformer, text: Text, length: int, bos: int | None, cache: KVCache, advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Read a text in windows of `length` that know nothing of each other.

    Each begins with bos, so that its first token is predicted too; without one, that is left out.

    Returns:
        The bits that each token costs and the bytes it stands for, both `[N]`.
    """
    bits, bytes = np.zeros(len(text.ids)), text.bytes.copy()
    if bos is None:
        bytes[::length] = 0
    for start in range(0, len(text.ids), length):
        window = slice(start, start + length)
        labels = np.where(bytes[window] > 0, text.ids[window], IGNORE)
        read = np.concatenate([[0 if bos is None else bos], text.ids[window][:-1]])
        skip = int(bos is None)
        nll = long_nll(model, read[skip:], labels[skip:], cache)
        bits[window][skip:] = nll / math.log(2)
        advance(len(labels))
    return bits, bytes


def measure(
    model: Transformer,
    text: Text,
    lengths: Sequence[int],
    bos: int | None,
    dtype: torch.dtype,
    scalings: Mapping[str, Mapping[str, Any] | None],
) -> dict[str, list[dict[str, Any]]]:
    """Bits per byte of as many whole windows of the longest context as the text has.

    Args:
        model: left with the last of the scalings.
        text: at least one window.
        lengths: contexts to read the same text in.
        bos: what begins a window.
        dtype: of products and cache.
        scalings: name of a figure -> `rope_scaling` under which it is measured.

    Returns:
        `by_length`: `{"length", NAME...}` of each; `by_position`: `{"position", NAME...}`, means over the stretches
        of the longest windows that end at `position`.
    """
    longest = max(lengths)
    text = Text(*(array[: len(array) // longest * longest] for array in text))
    by_length: list[dict[str, Any]] = [{"length": length} for length in lengths]
    by_position: dict[int, dict[str, Any]] = {}
    model.eval()
    cache = KVCache(model.config, longest, dtype, model.output_weight.device)
    with progress("reading", len(scalings) * len(lengths) * len(text.ids)) as bar:
        for name, scaling in scalings.items():
            model.use_rope_scaling(scaling)
            for row in by_length:
                bits, bytes = window_bits(model, text, row["length"], bos, cache, bar.advance)
                row[name] = float(bits.sum() / bytes.sum())
            for position, bpb in _by_position(bits, bytes, longest):
                by_position.setdefault(position, {"position": position})[name] = bpb
    return {"by_length": by_length, "by_position": list(by_position.values())}


def _by_position(bits: np.ndarray, bytes: np.ndarray, length: int) -> Iterator[tuple[int, float]]:
    """(end, bits per byte) of each stretch of windows of `length`, at most `STRETCHES` of them."""
    stretches = min(STRETCHES, length)
    stretch = np.arange(len(bits)) % length * stretches // length
    for n, (spent, size) in enumerate(zip(np.bincount(stretch, bits), np.bincount(stretch, bytes), strict=True), 1):
        yield n * length // stretches, float(spent / max(1, size))
