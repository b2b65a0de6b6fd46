"""Advantages against their formulas, written out."""

import pytest
import torch

from minimind.rl.advantages import gae, gae_of_answers, group_advantages, whiten, whiten_answers


def test_group_advantages():
    rewards, groups = torch.tensor([0.0, 2, 1, 1, 2, 0, 3]), [0, 1, 0, 0, 1, 0, 2]
    found = group_advantages(rewards, groups)
    sigma = torch.tensor([0.0, 1, 1, 0]).std().item() + 1e-4
    assert found[[0, 2, 3, 5]].tolist() == pytest.approx([a / sigma for a in (-0.5, 0.5, 0.5, -0.5)], rel=1e-5)
    assert found[[1, 4, 6]].tolist() == [0, 0, 0], "all alike, or alone"
    assert group_advantages(rewards, groups, divide=False)[[0, 2]].tolist() == [-0.5, 0.5]
    order = torch.tensor([6, 2, 5, 1, 0, 4, 3])
    torch.testing.assert_close(group_advantages(rewards[order], [groups[i] for i in order]), found[order])


def plain_gae(rewards, values, gamma, lam):
    """The sum Σ (γλ)^l δ_{t+l}, written out."""
    nexts = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, nexts, values, strict=True)]
    n = len(rewards)
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_its_formula_and_skips_what_was_not_chosen(gamma, lam):
    draw = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(1, 6, dtype=torch.float64, generator=draw) for _ in range(2))
    advantages, returns = gae(rewards, values, torch.ones(1, 6, dtype=torch.bool), gamma, lam)
    expected = plain_gae(rewards[0].tolist(), values[0].tolist(), gamma, lam)
    assert advantages[0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(returns, advantages + values)

    # Two chosen tokens, three that a tool said, four chosen ones, two more of padding: as if only the six were there.
    places = torch.tensor([0, 1, 5, 6, 7, 8])
    mask = torch.zeros(1, 11, dtype=torch.bool)
    mask[0, places] = True
    wide = [torch.full((1, 11), float("nan"), dtype=torch.float64) for _ in range(2)]
    for spread, x in zip(wide, (rewards, values), strict=True):
        spread[0, places] = x[0]
    spread_advantages, spread_returns = gae(*wide, mask, gamma, lam)
    torch.testing.assert_close(spread_advantages[:, places], advantages)
    torch.testing.assert_close(spread_returns[:, places], returns)
    assert not spread_advantages[~mask].any()


def test_whitening_over_the_mask():
    values, mask = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6) < 0.6
    white = whiten(values.where(mask, float("nan")), mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert white[mask].std().item() == pytest.approx(1)
    assert not white[~mask].any()
    kept = whiten(values, mask, centre=False)
    assert kept[mask].mean().item() == pytest.approx(values[mask].mean().item())


def test_answers_of_different_lengths_are_estimated_one_by_one():
    masks = [torch.tensor([True, False, True]), torch.tensor([True])]
    rewards, values = [torch.tensor([0.0, 9.0, 1.0]), torch.tensor([2.0])], [torch.randn(3), torch.randn(1)]
    advantages, returns = gae_of_answers(rewards, values, masks, 0.9, 0.8)
    for n, mask in enumerate(masks):
        alone = gae(rewards[n][None], values[n][None], mask[None], 0.9, 0.8)
        torch.testing.assert_close((advantages[n][None], returns[n][None]), alone)
    white = torch.cat(whiten_answers(advantages, masks, lambda total: total))
    torch.testing.assert_close(white, whiten(torch.cat(advantages), torch.cat(masks)))
    assert gae_of_answers([], [], [], 1.0, 1.0) == ([], [])
