"""Needle in a haystack: is a sentence told once, at any depth of a long text, found again at its end?

The haystack is text of the small world, each needle a fact about somebody whom no training text knows, so that it can
only be read there, never remembered. All depths of a length share one pass: several needles lie in one haystack, and
each is asked for in a continuation of its own from the same cache. The answer is the likeliest of ten.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from minimind.console import progress
from minimind.data.smallworld import facts, pretraining
from minimind.data.smallworld.split import Split
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, VALUES, Person
from minimind.errors import UserError
from minimind.eval.length import long_nll
from minimind.losses.lm import IGNORE
from minimind.model.cache import KVCache
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer

STRANGERS = (
    ("Hugo Falk", "钱子墨"), ("Ida Brandt", "孔一诺"), ("Milo Hart", "曹宇轩"), ("Petra Lang", "严梓涵"),
    ("Silas Stone", "金天翊"), ("Tess Wolf", "魏雅琴"), ("Wilma Frost", "陶大勇"), ("Bruno Marsh", "姜小满"),
    ("Ada Winter", "戚云帆"), ("Rufus Day", "谢知夏"), ("Greta Holm", "邹星河"), ("Boris Vale", "喻南风"),
)  # fmt: skip
"""Names that nobody in the small world has: the most needles in one haystack."""
LONGEST_QUESTION = 512
"""Tokens with its answer, in any tokenizer."""


class Haystack(NamedTuple):
    """A long text with needles in it, and for each needle the ten sentences of which one repeats it."""

    ids: list[int]
    asked: list[tuple[list[int], list[list[int]], int]]
    """What asks for it, how each of the ten answers goes on, and which of them is right."""


def haystack(tokenizer: Tokenizer, length: int, depths: Sequence[float], seed: int) -> Haystack:
    """Bury one needle at each of `depths` (0: at the beginning, 1: at the end) in a text of `length` tokens.

    Raises:
        UserError: the needles alone fill the text, or there are more than strangers.
    """
    rng = random.Random(f"needle {length} {seed}")
    language = LANGUAGES[seed % 2]
    if len(depths) > len(STRANGERS):
        raise UserError(f"--depths: {len(depths)} needles in one text, the most are {len(STRANGERS)}")
    values = [rng.sample(range(len(VALUES[attribute])), len(VALUES[attribute])) for attribute in ATTRIBUTES]
    people = [
        Person(*name, tuple(column[n % len(column)] for column in values))
        for n, name in enumerate(rng.sample(STRANGERS, len(depths)))
    ]
    attribute = rng.choice(ATTRIBUTES)
    needles = [tokenizer.encode(facts.answer(person, attribute, language) + "\n") for person in people]
    room = length - sum(map(len, needles)) - len(tokenizer.bos)
    if room <= 0:
        raise UserError(f"--lengths {length}: too few tokens for {len(needles)} needles; take longer texts")
    hay: list[list[int]] = []
    documents = pretraining.documents(Split(0), rng)
    texts = (text for _, text in documents)
    left = room
    while left > 0:
        hay.append(tokenizer.encode(next(texts) + "\n")[:left])
        left -= len(hay[-1])
    for needle, depth in sorted(zip(needles, depths, strict=True), key=lambda pair: -pair[1]):
        hay.insert(round(depth * len(hay)), needle)
    ids = [*tokenizer.bos, *(id for piece in hay for id in piece)]
    return Haystack(ids, [_question(person, attribute, language, tokenizer) for person in people])


def _question(
    person: Person, attribute: str, language: str, tokenizer: Tokenizer
) -> tuple[list[int], list[list[int]], int]:
    """The question with what all ten answers begin with, and how each goes on."""
    asked = facts.question(person, attribute, language)
    place, answers = ATTRIBUTES.index(attribute), []
    for value in range(len(VALUES[attribute])):
        values = tuple(value if n == place else old for n, old in enumerate(person.values))
        sentence = facts.answer(Person(person.english, person.chinese, values), attribute, language)
        answers.append(tokenizer.encode(f"{asked}\n{sentence}\n"))
    common = next(n for n, column in enumerate(zip(*answers, strict=False)) if len(set(column)) > 1)
    return answers[0][:common], [answer[common:] for answer in answers], person.values[place]


@torch.inference_mode()
def found(model: Transformer, text: Haystack, cache: KVCache) -> list[bool]:
    """Whether each needle of a text is found: its value the likeliest of ten, as text after the question."""
    ids = np.array(text.ids)
    long_nll(model, ids, np.full(len(ids), IGNORE), cache)
    right = []
    for asked, answers, wanted in text.asked:
        costs = []
        for answer in answers:
            continued = np.array([*asked, *answer])
            labels = np.where(np.arange(len(continued) - 1) >= len(asked) - 1, continued[1:], IGNORE)
            costs.append(long_nll(model, continued[:-1], labels, cache, start=len(ids)).sum())
        right.append(int(np.argmin(costs)) == wanted)
    return right


def retrieval(
    model: Transformer,
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    depths: Sequence[float],
    texts: int,
    dtype: torch.dtype,
    scalings: Mapping[str, Mapping[str, Any] | None],
) -> list[dict[str, Any]]:
    """`{"length", "depth", "n", NAME...}` of each length and depth: the share of `texts` needles found.

    scalings: name of a figure -> `rope_scaling` under which it is measured; the model is left with the last.
    """
    model.eval()
    rows: list[dict[str, Any]] = []
    buried = {length: [haystack(tokenizer, length, depths, seed) for seed in range(texts)] for length in lengths}
    cache = KVCache(model.config, max(lengths) + LONGEST_QUESTION, dtype, model.output_weight.device)
    with progress("looking for needles", len(scalings) * texts * sum(lengths)) as bar:
        for length in lengths:
            shares = {}
            for name, scaling in scalings.items():
                model.use_rope_scaling(scaling)
                hits = np.zeros(len(depths))
                for text in buried[length]:
                    hits += found(model, text, cache)
                    bar.advance(length)
                shares[name] = hits / texts
            for n, depth in enumerate(depths):
                row = {name: float(share[n]) for name, share in shares.items()}
                rows.append({"length": length, "depth": depth, "n": texts, **row})
    return rows
