"""Figures of a run between two lines of its log: means, largest values, rates and histograms, over all ranks."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minimind import ranks

BINS = 10
Number = Tensor | float
"""A tensor of one number stays where it is until the figures are taken, so that nobody waits for its device before."""


class Meter:
    """Collects; `take` returns what was collected and begins anew."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._sums: dict[str, list[tuple[Number, Number]]] = defaultdict(list)
        self._most: dict[str, list[Number]] = defaultdict(list)
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, total: Number, count: Number) -> None:
        """Add to a mean: a sum over `count` things. With seconds for `count` it is a rate."""
        self._sums[name].append((total, count))

    def over(self, mask: Tensor, **columns: Tensor) -> None:
        """Add each column's values where the mask is True."""
        count = mask.sum()
        for name, column in columns.items():
            self.add(name, column.detach().where(mask, 0).sum(), count)

    def most(self, name: str, value: Number) -> None:
        """The largest of what it is told."""
        self._most[name].append(value)

    def spread(self, name: str, values: Iterable[float]) -> None:
        """Add values of which the mean and a histogram are shown."""
        self._values[name] += values

    def take(self) -> dict[str, Any]:
        """The figures of all ranks, which all call this; then forget them."""
        sums = {name: added(parts) for name, parts in self._sums.items()}
        most = {name: max(map(float, values)) for name, values in self._most.items()}
        everything = ranks.gathered((sums, most, dict(self._values)))
        self.clear()
        figures: dict[str, Any] = {}
        for name in _names(part[0] for part in everything):
            total, count = (sum(part[0].get(name, (0, 0))[i] for part in everything) for i in (0, 1))
            figures[name] = total / count if count else 0.0
        for name in _names(part[1] for part in everything):
            figures[name] = max(part[1][name] for part in everything if name in part[1])
        for name in _names(part[2] for part in everything):
            values = torch.tensor([value for part in everything for value in part[2].get(name, [])])
            if len(values):
                figures[name] = float(values.double().mean())
                low, high = float(values.min()), float(values.max())
                counts = torch.histc(values, BINS, low, high) if high > low else torch.tensor([len(values)])
                figures[f"{name}_histogram"] = {"low": low, "high": high, "counts": counts.int().tolist()}
        return figures


def added(parts: Iterable[Sequence[Number]]) -> list[float]:
    """Sums of the first numbers, of the second ones, and so on."""
    return [sum(map(float, numbers)) for numbers in zip(*parts, strict=True)]


def _names(parts: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({name for part in parts for name in part})
