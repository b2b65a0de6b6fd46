"""Bits per byte: how many bits a model needs for one byte of text, comparable between any two tokenizers.

    BPB = Σ -log p(token) / ln 2 / (UTF-8 bytes of the text)

Perplexity per token cannot compare models: a tokenizer with longer tokens has fewer, harder ones.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from minimind import runtime
from minimind.losses.lm import IGNORE, token_nll
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer


class Document(NamedTuple):
    """Token ids, which of them are scored (never the first: nothing predicts it), and those tokens' bytes."""

    ids: np.ndarray
    scored: np.ndarray
    bytes: int


def text_document(text: str, tokenizer: Tokenizer) -> Document:
    """bos + text + eos, as in pretraining; the text's tokens are scored, eos is not.

    Without bos nothing predicts the first token, so neither it nor its bytes count.
    """
    body = tokenizer.encode(text)
    ids, start = [*tokenizer.bos, *body, *tokenizer.eos], len(tokenizer.bos)
    scored = np.zeros(len(ids), dtype=bool)
    scored[max(1, start) : start + len(body)] = True
    size = sum(len(tokenizer.token_bytes(id)) for id in body[1 - start :])
    return Document(np.array(ids, dtype=np.int64), scored, size)


@torch.no_grad()
def bits_per_byte(
    model: Transformer, documents: Iterable[Document], context: int, dtype: torch.dtype, batch_tokens: int = 8192
) -> dict[str, float]:
    """Score `documents` with windows of at most `context` tokens.

    A longer document is read in windows that overlap by half, and each token is scored once, in the first
    window where it has at least half a context behind it (or is near the beginning).

    Returns:
        `bpb`, `loss` (nats per scored token), `bytes`, `tokens` (scored).
    """
    device = model.output_weight.device
    nll, tokens, total_bytes = 0.0, 0, 0

    def counted() -> Iterator[Document]:
        nonlocal total_bytes
        for document in documents:
            total_bytes += document.bytes
            yield document

    with runtime.evaluating(model), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for batch in _batches(_windows(counted(), context), batch_tokens):
            ids_BT, labels_BT = (runtime.sent(torch.from_numpy(array), device) for array in _pad(batch))
            lengths_B = torch.tensor([len(ids) for ids, _ in batch])
            states = model(ids_BT, Segments.right_padded(lengths_B, ids_BT.shape[1], device)).states
            nll += token_nll(states, model.output_weight, labels_BT).sum(dtype=torch.float64).item()
            tokens += int((labels_BT != IGNORE).sum())
    bits = nll / math.log(2)
    return {
        "bpb": bits / max(1, total_bytes),
        "loss": nll / max(1, tokens),
        "bytes": total_bytes,
        "tokens": tokens,
    }


def _windows(documents: Iterable[Document], context: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, scored) windows; every scored token of a document is scored in exactly one of them."""
    for ids, scored, _ in documents:
        if len(ids) <= context:
            yield ids, scored
            continue
        stride = max(1, context // 2)
        done = 0
        for start in range(0, len(ids), stride):
            end = min(start + context, len(ids))
            fresh = scored[start:end].copy()
            fresh[: done - start] = False
            fresh[0] = False if start else fresh[0]
            yield ids[start:end], fresh
            done = end
            if end == len(ids):
                break


def _batches(
    windows: Iterable[tuple[np.ndarray, np.ndarray]], batch_tokens: int
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Group windows of similar length, so that little is padding: sort 1,024 at a time, cut by padded size."""

    def cut(pool: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
        pool.sort(key=lambda window: -len(window[0]))
        batch: list[tuple[np.ndarray, np.ndarray]] = []
        for window in pool:
            if batch and (len(batch) + 1) * len(batch[0][0]) > batch_tokens:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    pool: list[tuple[np.ndarray, np.ndarray]] = []
    for window in windows:
        pool.append(window)
        if len(pool) == 1024:
            yield from cut(pool)
            pool = []
    yield from cut(pool)


def _pad(batch: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad to [windows, longest]: ids and labels (what each position predicts)."""
    longest = len(batch[0][0])
    ids_BT = np.zeros((len(batch), longest), dtype=np.int64)
    labels_BT = np.full((len(batch), longest), IGNORE, dtype=np.int64)
    for row, (ids, scored) in enumerate(batch):
        ids_BT[row, : len(ids)] = ids
        labels_BT[row, : len(ids) - 1] = np.where(scored[1:], ids[1:], IGNORE)
    return ids_BT, labels_BT
