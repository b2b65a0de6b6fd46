import pytest

from minimind.optim.schedule import learning_rate
from minimind.optim.settings import OptimConfig


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_rises_to_the_peak_and_falls_to_the_end(schedule):
    config = OptimConfig(lr=1.0, schedule=schedule, warmup=0.1, decay=0.5, final_lr=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.1 <= rates[-1] < 0.13


def test_stable_part_does_not_depend_on_the_total():
    config = OptimConfig(lr=1.0, warmup=0.0, decay=0.2)
    assert learning_rate(50, 100, config) == learning_rate(50, 1000, config) == 1.0


def test_one_step_is_possible():
    for schedule in ("cosine", "wsd"):
        assert learning_rate(0, 1, OptimConfig(schedule=schedule, warmup=0.02)) > 0
