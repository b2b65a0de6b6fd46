"""Which size to train for a given budget: a scaling law, and the constants that were fitted for it.

    bits per byte = E + A / N^alpha + B / D^beta        N parameters, D tokens (Hoffmann et al. 2022, "Chinchilla")

E is what no model can predict; the other two say: too few parameters, too few tokens. A time budget buys fewer tokens
for a larger model, so for every budget there is a best size.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    """The constants of a scaling law."""

    floor: float
    size: float
    alpha: float
    text: float
    beta: float

    def bpb(self, parameters: float, tokens: float) -> float:
        """Bits per byte that a model of this size reaches on that many tokens."""
        return self.floor + self.size / parameters**self.alpha + self.text / tokens**self.beta


ALPHA, BETA = 0.3478, 0.3658
"""Exponents of much longer runs (Besiroglu et al. 2024, a refit of Chinchilla's)."""


def fit(runs: Iterable[tuple[float, float, float]], alpha: float = ALPHA, beta: float = BETA) -> Law:
    """Fit floor and factors to (parameters, tokens, bits per byte) of runs of at least two sizes and two lengths.

    Exponents are given: many describe runs of minutes as well, and part where those are extrapolated.

    Raises:
        ValueError: no law with positive terms describes the runs.
    """
    parameters, tokens, bpb = np.array(list(runs), dtype=np.float64).T
    terms = np.stack([np.ones_like(bpb), parameters**-alpha, tokens**-beta], axis=1)
    scale = terms.max(axis=0)  # columns of like size, or the small ones would drown in rounding
    solution, *_ = np.linalg.lstsq(terms / scale, bpb, rcond=None)
    floor, size, text = (float(value) for value in solution / scale)
    if min(floor, size, text) <= 0:
        raise ValueError("no scaling law with positive terms describes these runs; add sizes or lengths")
    return Law(floor, size, alpha, text, beta)


RUNS = (
    (1.7e6, 1.0e6, 2.284),
    (1.7e6, 2.7e6, 2.124),
    (6.1e6, 0.75e6, 2.318),
    (6.1e6, 1.25e6, 2.194),
    (6.1e6, 5.94e6, 1.881),
    (6.1e6, 9.9e6, 1.796),
)
"""Parameters, tokens and bits per byte of runs on Chinese and English web text, each with a schedule of its length."""
LAW = fit(RUNS)
OTHERS = tuple(fit(RUNS, alpha, beta) for alpha in (0.1, ALPHA, 0.6) for beta in (0.2, BETA))
"""Laws that describe the same runs about as well."""
NOISE = 0.05
"""Bits per byte by which a run of such sizes is off the law. Other text is further off: the small world's takes half
the bits."""


def expected(parameters: float, tokens: float) -> tuple[float, float]:
    """Bits per byte of mixed web text, and by how much that may be wrong: laws part where nothing was measured."""
    bpb = LAW.bpb(parameters, tokens)
    return bpb, max(NOISE, *(abs(law.bpb(parameters, tokens) - bpb) for law in OTHERS))


REUSE = 15.0
"""Epochs after which repeated text has lost most of its worth (Muennighoff et al. 2023, R*_D)."""


def effective_tokens(tokens: float, unique: float) -> float:
    """What `tokens` are worth that repeat `unique` ones: U + U R (1 - exp(-(D/U - 1) / R)), Muennighoff et al. 2023."""
    if tokens <= unique:
        return tokens
    return unique + unique * REUSE * (1 - math.exp(-(tokens / unique - 1) / REUSE))


LARGEST_STEP = 2**19
"""Tokens of the largest step that is ever chosen."""


def tokens_per_step(tokens: float) -> int:
    """Tokens of a step in a run of so many, a power of two from 2,048 to `LARGEST_STEP`.

    They grow as tokens^0.383 (nanochat's batches), from 4,096 for ten million, which `laptop` was measured with.
    """
    ideal = 4096 * (tokens / 1e7) ** 0.383
    return min(LARGEST_STEP, int(2 ** max(11, round(math.log2(max(ideal, 1))))))


SHORTEST_MEMORY = 50
"""Steps that weights remember at least: with an epoch of 73 it was measured, and of very few nothing would be left."""


def weight_decay(lr: float, steps_per_epoch: float) -> float:
    """Decay for text that is read again: weights are the mean of the updates of about one epoch, and older ones fade.

    Decoupled decay makes them a moving average over 1 / (lr · decay) steps; counted in epochs, the best length hardly
    depends on sizes (Wang & Aitchison 2025). It should be one at least, or some of the text is forgotten.
    """
    return 1 / (lr * max(steps_per_epoch, SHORTEST_MEMORY))


def learning_rate(width: int) -> float:
    """Peak rate of Muon at this width: 3e-3 at 256 and 2e-3 at 768, the recipes of `laptop` and `minimind-3`."""
    return 3e-3 * (256 / width) ** math.log(1.5, 3)
