"""The scaling law: a fit finds the constants that made the data, and the best size grows with the budget."""

import itertools

import pytest

from minimind.plan.scaling import ALPHA, LAW, NOISE, RUNS, Law, effective_tokens, expected, fit


def test_a_fit_finds_the_law_again():
    law = Law(floor=0.7, size=50.0, alpha=ALPHA, text=90.0, beta=0.3)
    runs = [(n, d, law.bpb(n, d)) for n, d in itertools.product((2e6, 6e6, 2e7), (5e5, 2e6, 8e6))]
    assert fit(runs, beta=0.3) == pytest.approx(law)


def test_runs_that_get_worse_with_more_text_have_no_law():
    with pytest.raises(ValueError, match="sizes or lengths"):
        fit([(n, d, d / 1e6 + n / 1e6) for n, d in itertools.product((1e6, 2e6, 4e6), (1e6, 2e6, 4e6))])


def test_a_larger_budget_wants_a_larger_model():
    sizes = [1e6 * 2**power for power in range(12)]
    best = [min(sizes, key=lambda n: LAW.bpb(n, flops / 6 / n)) for flops in (1e15, 1e17, 1e19)]
    assert best == sorted(set(best))


NOT_FITTED = ((2.85e6, 1.33e6, 2.203), (25.8e6, 0.41e6, 2.507))


@pytest.mark.parametrize("run", [*RUNS, *NOT_FITTED])
def test_what_was_measured_is_expected(run):
    bpb, error = expected(*run[:2])
    assert bpb == pytest.approx(run[2], abs=NOISE)
    assert error < 1.5 * NOISE


def test_nothing_is_promised_far_from_what_was_measured():
    assert expected(64e6, 1.6e9)[1] > 3 * NOISE


def test_repeated_text_is_worth_less():
    assert effective_tokens(100, 200) == 100
    assert 390 < effective_tokens(400, 200) < 400, "a second epoch is nearly as good as new text"
    assert effective_tokens(1e9, 200) == pytest.approx(200 * 16)
