"""Sampling: the filters keep what they say, and draws follow the distribution."""

import pytest
import torch

from minimind.engine.sampling import GREEDY, Sampling, sample
from minimind.errors import UsageError

P = torch.tensor([0.05, 0.4, 0.3, 0.15, 0.1])
GRID = (torch.arange(20_000) + 0.5) / 20_000  # evenly spread randomness: frequencies come out exactly


def frequencies(sampling: Sampling, uniform: torch.Tensor = GRID) -> list[float]:
    ids, _ = sample(P.log().expand(len(uniform), -1), sampling, uniform)
    return (torch.bincount(ids, minlength=5) / len(uniform)).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.05, 0.4, 0.3, 0.15, 0.1]),
        (Sampling(top_k=2), [0, 4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_p=0.69), [0, 4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_p=0.71), [0, 0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0]),
        (Sampling(top_p=1e-6), [0, 1, 0, 0, 0]),
        (Sampling(min_p=0.3), [0, 0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0]),
        (Sampling(top_k=3, top_p=0.5), [0, 4 / 7, 3 / 7, 0, 0]),
        (GREEDY, [0, 1, 0, 0, 0]),
    ],
)
def test_draws_follow_the_filtered_distribution(sampling, expected):
    assert frequencies(sampling) == pytest.approx(expected, abs=1e-3)


def test_temperature_sharpens():
    expected = (P**2 / (P**2).sum()).tolist()
    assert frequencies(Sampling(temperature=0.5)) == pytest.approx(expected, abs=1e-3)


def test_the_extremes_of_the_randomness_stay_inside_the_filter():
    ends = torch.tensor([0.0, 1.0 - 2**-24])
    for sampling in (Sampling(top_k=2), Sampling(top_p=0.5), Sampling(min_p=0.5)):
        assert sum(frequencies(sampling, ends)[1:3]) == 1


def test_logprob_is_the_models_own():
    ids, logprobs = sample(P.log()[None], Sampling(temperature=0.1, top_k=1), torch.tensor([0.5]))
    assert ids.item() == 1
    assert logprobs.item() == pytest.approx(P[1].log().item(), abs=1e-6)


@pytest.mark.parametrize("field", [{"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"top_k": -1}])
def test_values_out_of_range_are_named(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        Sampling(**field)
