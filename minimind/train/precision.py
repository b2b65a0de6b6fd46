"""The number format of a run's matrix products, and the scaling of the loss that float16 needs."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from minimind import runtime

DOUBLE_AFTER = 2000
"""Steps without an overflow after which the scale is tried twice as large."""


class Precision:
    """Matrix products in `dtype`, everything else in float32; weights are float32 too.

    float16 holds nothing between 0 and 6e-8, where many gradients are. So its loss is multiplied by a large power of
    two and the gradient divided by it again (Micikevicius et al. 2018). A scale that makes a gradient overflow is
    halved and that update left out. `torch.amp.GradScaler` decides that for each optimizer on each rank; here the
    norm of the whole gradient decides for all of them.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        """Take the format `name`, one of torch's or `auto`: what is fast here."""
        self.device = device
        self.dtype: torch.dtype = runtime.compute_dtype(device) if name == "auto" else getattr(torch, name)
        self.scales = self.dtype == torch.float16
        self.scale = 2.0**16 if self.scales else 1.0
        self.good_steps = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass belongs in here."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Undo the scale of the loss in the gradients."""
        if self.scale != 1:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / self.scale)

    def update(self, finite: bool) -> None:
        """Choose the next step's scale by whether this one's gradient was finite."""
        if not self.scales:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale = max(1.0, self.scale / 2)
        elif self.good_steps % DOUBLE_AFTER == 0:
            self.scale = min(2.0**24, self.scale * 2)

    def state_dict(self) -> dict[str, Any]:
        """What the next step's scale depends on."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved scale; another format has its own."""
        if self.scales and state["scale"] != 1:
            self.scale, self.good_steps = state["scale"], state["good_steps"]
