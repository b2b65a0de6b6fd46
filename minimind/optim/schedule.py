"""Learning-rate schedules: functions of the step alone, so a resumed run needs no state for them."""

import math

from minimind.optim.settings import OptimConfig


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`.

    Both schedules rise linearly over the first `warmup` share of the steps. `wsd` (warm-up, stable, decay;
    Hu et al. 2024) then stays at the peak and falls linearly over the last `decay` share: the stable part is
    the same whatever the total, so a run can be prolonged. `cosine` falls along half a cosine from the peak.
    """
    warmup = round(config.warmup * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, total - 1 - warmup)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        falling = min(round(config.decay * total), total - warmup)
        left = total - step  # ends at 1/falling, so that the last step still learns
        share = min(1.0, left / falling) if falling else 1.0
    return config.lr * (config.final_lr + (1 - config.final_lr) * share)
