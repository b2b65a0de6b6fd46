"""What a corpus holds: documents, bytes, tokens, lengths, duplicates, languages, and what it shares with a benchmark.

Contamination is counted in n-grams, as GPT-3's authors did (13 words, Brown et al. 2020, appendix C,
https://arxiv.org/abs/2005.14165): a benchmark question is contaminated where 13 units in a row, words or Han
characters, also occur in the corpus. Only the benchmark's n-grams are kept; the corpus streams past.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from minimind.console import progress
from minimind.data import datasets_hub
from minimind.data.conversations import Conversation
from minimind.data.corpus import (
    BadLine,
    Document,
    Kind,
    content_hash,
    expand,
    language,
    parse,
    parsed,
    read_batches,
    said,
)
from minimind.data.preferences import Pair, encode_pair
from minimind.data.shards import kind_of
from minimind.errors import UserError
from minimind.text import read_json, utf8
from minimind.tokenizer import chat
from minimind.tokenizer.bpe import Tokenizer

GRAM = 13
PERCENTILES = (1, 10, 50, 90, 99, 100)
_UNIT = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\\W_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no unit's bits are lost however often it is applied


def measure(
    files: Sequence[str | Path], tokenizer: Tokenizer, against: Sequence[str | Path] = (), kind: Kind | None = None
) -> dict[str, Any]:
    """Describe a corpus; bad lines are counted, never an error.

    kind: what the lines are; None takes it from the first good line.

    Returns:
        documents, bytes (UTF-8), tokens, mean_tokens, token_percentiles, duplicates (documents that occurred before),
        languages ({zh, en, mixed}: documents), bad_lines, first_bad_line, mended_lines (where half a surrogate pair
        became U+FFFD), and, for each file in `against`,
        contamination ({file: {questions, too_short, contaminated, share, corpus_documents}}).

    Raises:
        UserError: a missing, empty or unreadable file; no document at all.
    """
    names = expand(files)
    kind = kind or kind_of(names)
    benchmarks = {str(name): _Benchmark(name) for name in expand(against)} if against else {}
    hashes, lengths, languages = array("Q"), array("I"), Counter[str]()
    size = bad_lines = mended = 0
    first_bad = None
    total = sum(Path(name).stat().st_size for name in names if not datasets_hub.is_dataset(name))
    with progress("reading", total or None) as bar:
        for batch in read_batches(names):
            documents = []
            for document in parsed(batch, partial(parse, kind=kind)):
                if isinstance(document, BadLine):
                    bad_lines += 1
                    first_bad = first_bad or str(document)
                else:
                    documents.append(document)
            texts = ["\n".join(said(document)) for document in documents]
            lengths.extend(_token_counts(documents, texts, tokenizer))
            for document, text in zip(documents, texts, strict=True):
                hashes.append(content_hash(document))
                languages[language(text)] += 1
                size += len(utf8(text))
                if benchmarks:
                    grams = ngrams(text)
                    for benchmark in benchmarks.values():
                        benchmark.look(grams)
            mended += batch.mended
            bar.advance(batch.disk_bytes)
    if not hashes:
        raise UserError(f"{names[0]}: no document in it" + (f"; {first_bad}" if first_bad else ""))
    tokens = np.array(lengths, dtype=np.int64)
    figures = {
        "documents": len(hashes),
        "bytes": size,
        "tokens": int(tokens.sum()),
        "mean_tokens": float(tokens.mean()),
        "token_percentiles": {str(p): int(np.percentile(tokens, p, method="nearest")) for p in PERCENTILES},
        "duplicates": len(hashes) - len(np.unique(np.array(hashes, dtype=np.uint64))),
        "languages": {name: languages[name] for name in ("zh", "en", "mixed")},
        "bad_lines": bad_lines,
        "first_bad_line": first_bad,
        "mended_lines": mended,
    }
    if benchmarks:
        figures["contamination"] = {name: benchmark.figures() for name, benchmark in benchmarks.items()}
    return figures


def ngrams(text: str) -> np.ndarray:
    """Hashes, uint64 `[units - 12]`, of every 13 neighbouring units of the text.

    A unit is a Han character or a word in lower case; punctuation and spacing do not count.
    """
    units = _UNIT.findall(unicodedata.normalize("NFKC", text).lower())
    codes = np.array([crc32(utf8(unit)) for unit in units], dtype=np.uint64)
    grams = np.zeros(max(0, len(codes) - GRAM + 1), dtype=np.uint64)
    for offset in range(GRAM if len(grams) else 0):
        grams = (grams ^ codes[offset : offset + len(grams)]) * _MULTIPLIER
        grams ^= grams >> np.uint64(29)
    return grams


class _Benchmark:
    """The n-grams of an evaluation file, and which of them the corpus has shown."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        per_question = [ngrams(text) for text in self._questions()]
        if not per_question:
            raise UserError(f"{path}: no question in it; name a JSON Lines evaluation file")
        sizes = [len(grams) for grams in per_question]
        self.question_of = np.repeat(np.arange(len(sizes)), sizes)
        self.too_short = sizes.count(0)
        self.questions = len(sizes)
        self.grams, self.which = np.unique(np.concatenate(per_question), return_inverse=True)
        self.seen = np.zeros(len(self.grams), dtype=bool)
        self.corpus_documents = 0

    def _questions(self) -> Iterator[str]:
        """All strings of each line, whatever its fields are called."""
        for batch in read_batches([str(self.path)]):
            for number, line in batch.lines:
                try:
                    yield "\n".join(_strings(read_json(line)))
                except ValueError as error:
                    raise UserError(f"{batch.file} line {number}: not valid JSON ({error}); correct it") from None

    def look(self, grams: np.ndarray) -> None:
        """Mark what one document of the corpus has in common."""
        if not len(self.grams) or not len(grams):
            return
        at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        hits = at[self.grams[at] == grams]
        self.seen[hits] = True
        self.corpus_documents += len(hits) > 0

    def figures(self) -> dict[str, Any]:
        contaminated = len(np.unique(self.question_of[self.seen[self.which]]))
        checked = self.questions - self.too_short
        return {
            "questions": self.questions,
            "too_short": self.too_short,
            "contaminated": contaminated,
            "share": contaminated / checked if checked else 0.0,
            "corpus_documents": self.corpus_documents,
        }


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in _strings(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _strings(inner))


def _token_counts(documents: Sequence[Document], texts: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """Tokens as training sees them: bos + text + eos, the rendered conversation, or a prompt with both answers."""
    pairs = [encode_pair(document, tokenizer) for document in documents if isinstance(document, Pair)]
    if pairs:
        return [len(encoded[0]) for encoded in pairs if encoded is not None]
    conversations = [document for document in documents if isinstance(document, Conversation)]
    if conversations:
        return [len(chat.render(one.messages, tokenizer, one.tools)[0]) for one in conversations]
    ends = len(tokenizer.bos + tokenizer.eos)
    return [len(ids) + ends for ids in tokenizer.encode_batch(texts)]
