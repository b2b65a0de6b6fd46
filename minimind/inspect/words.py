"""How text becomes tokens: what each stands for, how long it is, and merge by merge how it came to be."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from minimind.inspect.prompts import Prompt, shown
from minimind.tokenizer.bpe import Tokenizer

CJK = "\u2e80"
"""From here on Unicode has the East Asian scripts and their punctuation."""


class Step(NamedTuple):
    """The pieces of a token after one more merge."""

    pieces: list[bytes]
    joined: int | None
    """Which of them is new; None at the beginning, where each is a byte."""
    rank: int | None
    """The how manieth merge of the tokenizer made it, from 0."""


def merge_steps(tokenizer: Tokenizer, id: int) -> list[Step]:
    """From the bytes of a token to the token, lowest-ranked pair first; nothing for a control token.

    A token that its own merges do not lead to (some tokenizers have such) ends in several pieces.
    """
    if is_control(tokenizer, id):
        return []
    pieces = [bytes([byte]) for byte in tokenizer.token_bytes(id)]
    steps = [Step(pieces, None, None)]
    while True:
        pairs = enumerate(itertools.pairwise(pieces))
        found = [(rank, i) for i, pair in pairs if (rank := tokenizer.merges.get(pair)) is not None]
        if not found:
            return steps
        rank, i = min(found)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
        steps.append(Step(pieces, i, rank))


def is_control(tokenizer: Tokenizer, id: int) -> bool:
    """Whether no text can become this token: it is the layout's alone."""
    return tokenizer.control_id(tokenizer.token_bytes(id).decode("utf-8", "replace")) == id


def bytes_per_token(tokenizer: Tokenizer, ids: list[int]) -> dict[str, float | None]:
    """Mean length of the tokens of East Asian text (`zh`) and of all `other` text; control tokens are left out.

    A piece of a character is counted to the former, whose characters have three bytes.
    """
    lengths: dict[str, list[int]] = {"zh": [], "other": []}
    for id in ids:
        raw = tokenizer.token_bytes(id)
        text = raw.decode("utf-8", "replace")
        if not is_control(tokenizer, id):
            lengths["zh" if any(char >= CJK for char in text) else "other"].append(len(raw))
    return {language: sum(some) / len(some) if some else None for language, some in lengths.items()}


def describe(tokenizer: Tokenizer, prompt: Prompt) -> list[dict[str, Any]]:
    """Each token of a prompt: text, length in bytes, whether it is a control token, whether it is trained on."""
    supervised: Sequence[bool | None] = prompt.supervised or [None] * len(prompt.ids)
    return [
        {
            "id": id,
            "text": shown(tokenizer, id),
            "bytes": len(tokenizer.token_bytes(id)),
            "control": is_control(tokenizer, id),
            "supervised": learned,
        }
        for id, learned in zip(prompt.ids, supervised, strict=True)
    ]
