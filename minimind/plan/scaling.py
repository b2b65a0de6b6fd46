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


LAW = Law(floor=0.624, size=165.6, alpha=0.3478, text=716.4, beta=0.3658)
"""Besiroglu et al. 2024's refit of Chinchilla's runs, in bits per byte at 4.2 bytes a token. Much larger models and
other text: trust the order of sizes, not the values. `benchmarks/scaling_law.py` prints those of your own corpus."""

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


def learning_rate(width: int) -> float:
    """Peak rate of Muon at this width: 3e-3 at 256 and 2e-3 at 768, the recipes of `laptop` and `minimind-3`."""
    return 3e-3 * (256 / width) ** math.log(1.5, 3)


def fit(runs: Iterable[tuple[float, float, float]]) -> Law:
    """Fit the law to (parameters, tokens, bits per byte) of runs of at least two sizes and two lengths.

    For given exponents the rest is linear, so the exponents are tried on a grid and the others solved for.

    Raises:
        ValueError: no law with positive terms describes the runs.
    """
    parameters, tokens, bpb = np.array(list(runs), dtype=np.float64).T
    best: tuple[float, Law] | None = None
    exponents = np.arange(0.1, 1.001, 0.02)
    for alpha in exponents:
        for beta in exponents:
            terms = np.stack([np.ones_like(bpb), parameters**-alpha, tokens**-beta], axis=1)
            scale = terms.max(axis=0)  # columns of like size, or the small ones would drown in rounding
            solution, *_ = np.linalg.lstsq(terms / scale, bpb, rcond=None)
            floor, size, text = solution / scale
            error = float(np.square(terms @ (solution / scale) - bpb).sum())
            if min(floor, size, text) > 0 and (best is None or error < best[0]):
                best = error, Law(float(floor), float(size), float(alpha), float(text), float(beta))
    if best is None:
        raise ValueError("no scaling law with positive terms describes these runs; add sizes or lengths")
    return best[1]
