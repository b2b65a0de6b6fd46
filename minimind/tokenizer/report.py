"""How well tokenizers fit a text: characters and bytes a token, tokens a word, and whether every text comes back.

The documents are counted by language, because a tokenizer that is good at one may be bad at the other: *Chinese* is a
document that is over half Han characters, *other* the rest, and *English* what has under 2 % of them.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from minimind.text import utf8
from minimind.tokenizer.bpe import Tokenizer

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORDS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|\\w+")  # a Han character is a word
_BATCH = 1000


def han_share(text: str) -> float:
    """Fraction of the characters that are Han, 0 to 1."""
    return len(_HAN.findall(text)) / len(text) if text else 0.0


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """Figures of one tokenizer on `texts`, each text a document.

    Returns `chars_per_token` (`zh`, `other`, `en`; None where there is no such text), `bytes_per_token`, `fertility`
    (tokens a word), `round_trip_failures`, `documents`, `tokens`, `bytes`, `vocab_size` and `mb_per_second` (encoding
    on one core).
    """
    chars: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    size = words = documents = failures = 0
    seconds = 0.0
    tokenizer.encode("")  # building the encoder is not encoding
    for batch in _batches(texts):
        start = time.perf_counter()
        encoded = tokenizer.encode_batch(batch)
        seconds += time.perf_counter() - start
        for text, ids in zip(batch, encoded, strict=True):
            share = han_share(text)
            for kind in ("zh",) if share > 0.5 else ("other", "en") if share < 0.02 else ("other",):
                chars[kind] += len(text)
                tokens[kind] += len(ids)
            size += len(utf8(text))
            words += len(_WORDS.findall(text))
            failures += tokenizer.decode(ids.tolist()) != text
        documents += len(batch)
    count = tokens["zh"] + tokens["other"]
    return {
        "vocab_size": tokenizer.vocab_size,
        "chars_per_token": {kind: _ratio(chars[kind], tokens[kind]) for kind in ("zh", "other", "en")},
        "bytes_per_token": _ratio(size, count),
        "fertility": _ratio(count, words),
        "round_trip_failures": failures,
        "documents": documents,
        "tokens": count,
        "bytes": size,
        "mb_per_second": _ratio(size / 1e6, seconds),
    }


def _ratio(over: float, under: float) -> float | None:
    return over / under if under else None


def _batches(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    texts = iter(texts)
    while batch := list(islice(texts, _BATCH)):
        yield batch
