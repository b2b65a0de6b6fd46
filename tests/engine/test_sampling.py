"""Sampling: the filters keep what they say, and draws follow the distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimind.engine.sampling import GREEDY, Sampling, _in_whole_numbers, sample, uniforms
from minimind.errors import UsageError

P = torch.tensor([0.05, 0.4, 0.3, 0.15, 0.1])
GRID = (torch.arange(20_000) + 0.5) / 20_000  # evenly spread randomness: frequencies come out exactly


def frequencies(sampling: Sampling, uniform: torch.Tensor = GRID) -> list[float]:
    ids = sample(P.log().expand(len(uniform), -1), [sampling] * len(uniform), uniform).ids
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


def test_each_row_follows_its_own_rules_and_reports_both_logprobs():
    rows = [
        (Sampling(temperature=0.1, top_k=1), 1, 0.0),
        (GREEDY, 1, 0.0),
        (Sampling(top_k=2), 2, math.log(3 / 7)),
        (Sampling(), 3, math.log(0.15)),
        (Sampling(temperature=0.5, min_p=0.5), 2, math.log(9 / 25)),
        (Sampling(temperature=0, logit_bias={3: 5.0, 4: 1.0}), 3, 0.0),
    ]
    draws = sample(P.log().expand(len(rows), -1), [r for r, _, _ in rows], torch.full((len(rows),), 0.8))
    assert draws.ids.tolist() == [id for _, id, _ in rows]
    assert draws.policy_logprobs.tolist() == pytest.approx([policy for _, _, policy in rows], abs=1e-5)
    assert draws.logprobs.tolist() == pytest.approx([P[id].log().item() for _, id, _ in rows], abs=1e-5)


@given(st.lists(st.sampled_from([0.0, 0.3, 1.5]), min_size=3, max_size=3), st.integers(0, 2**31))
def test_no_rule_of_another_row_changes_a_draw(rules, seed):
    company = Sampling(top_k=int(rules[0] * 10), top_p=1 - rules[1] / 2, min_p=rules[2] / 3, temperature=0.7)
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 300, generator=noise) * 3
    uniform = torch.rand(2, generator=noise, dtype=torch.float64)
    for mine in (Sampling(), Sampling(top_p=0.9), Sampling(temperature=2.0, top_k=40, min_p=0.01)):
        alone = sample(logits[:1], [mine], uniform[:1])
        beside = sample(logits, [mine, company], uniform)
        assert alone.ids[0] == beside.ids[0]
        assert alone.policy_logprobs[0] == beside.policy_logprobs[0]


def test_a_bias_may_be_a_whole_number():
    assert sample(P.log()[None], [Sampling(temperature=0, logit_bias={3: 5})], torch.zeros(1)).ids.item() == 3


def test_penalties_by_hand():
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0]])
    counts = torch.tensor([[2, 1, 0, 0]])
    rules = Sampling(repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    expected = torch.tensor([2 / 2 - 0.25 - 2 * 0.5, -1 * 2 - 0.25 - 0.5, 0.5, 1.0]).log_softmax(-1)
    for uniform in (0.05, 0.3, 0.5, 0.9):
        draws = sample(logits, [rules], torch.tensor([uniform]), counts)
        assert draws.policy_logprobs.item() == pytest.approx(expected[draws.ids.item()].item(), abs=1e-6)


def test_a_grammar_forbids():
    allowed = torch.tensor([[True, False, False, False, True]])
    for rules, expected in ((GREEDY, 4), (Sampling(), 0)):
        assert sample(P.log()[None], [rules], torch.tensor([0.0]), allowed_BV=allowed).ids.item() == expected


def test_random_numbers_depend_on_seed_and_place_only_and_are_uniform():
    many = uniforms(list(range(50)) * 40, [place for place in range(40) for _ in range(50)])
    assert uniforms([7], [3])[0] == many[3 * 50 + 7]
    assert len(set(many.tolist())) == 2000
    assert np.histogram(many, 10, (0, 1))[0].std() < 30  # 200 in each, give or take the binomial 13
    assert abs(np.corrcoef(many[:-50], many[50:])[0, 1]) < 0.06
    assert abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.06


@pytest.mark.parametrize("field", [{"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"top_k": -1}, {"top_k": 2**31}])
def test_values_out_of_range_are_named(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        Sampling(**field)


def test_sums_in_whole_numbers_are_the_sums():
    """What CUDA computes where every result must repeat: there sums of floats are refused."""
    p_BV = torch.randn(4, 6400, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)
    whole = _in_whole_numbers(p_BV)
    torch.testing.assert_close(whole, p_BV.cumsum(-1, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (whole.diff(dim=-1) >= 0).all()
    assert torch.equal(whole[:, -1], _in_whole_numbers(p_BV.flip(-1))[:, -1]), "in whatever order"
