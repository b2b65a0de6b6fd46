"""Rotary position embeddings (Su et al. 2021) and their extension to longer contexts, YaRN (Peng et al. 2023).

Each pair of channels (i, i + D/2) of a query or key is rotated by position · frequency_i, so that their dot
product depends on the distance between the two positions only.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minimind import runtime
from minimind.config import ModelConfig
from minimind.errors import UserError

MAX_TRAINED = 2048
"""Tokens of the longest rows that MiniMind's models are trained on, unless somebody says otherwise."""


class Rotation(NamedTuple):
    """Cosines and sines of every angle, float32 `[batch, time, 1, head_dim / 2]`."""

    cos: Tensor
    sin: Tensor


class RotaryEmbedding:
    """Positions to rotations.

    Not an `nn.Module`: the frequencies must stay float32 when the model is cast to bfloat16, and they are
    no part of a saved model.
    """

    def __init__(self, config: ModelConfig):
        self.frequencies, self.scale = rope_frequencies(config)

    def __call__(self, positions_BT: Tensor) -> Rotation:
        """Return the rotation of each token."""
        if self.frequencies.device != positions_BT.device:
            self.frequencies = runtime.sent(self.frequencies, positions_BT.device)
        angles = positions_BT[:, :, None, None].float() * self.frequencies
        return Rotation(angles.cos() * self.scale, angles.sin() * self.scale)


def rotate(x_BTHD: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the two halves of every head against each other, in float32; the output has x's dtype."""
    a, b = x_BTHD.float().chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x_BTHD.dtype)


def rope_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """Return the rotation speeds `[head_dim / 2]` (radians a position, float32) and the factor on cos and sin.

    Raises:
        UserError: `rope_scaling` names a method other than "default" and "yarn", or lacks a field.
    """
    dim, theta = config.head_dim, config.rope_theta
    # The device is named because a model may be built under `torch.device("meta")`.
    frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    method = _method(config)
    if method == "default":
        return frequencies, 1.0
    if method != "yarn":
        raise UserError(f"config.json: rope_scaling type {method!r} is not supported; use 'yarn' or null")
    scaling = config.rope_scaling or {}
    original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
    factor = yarn_factor(config)

    # A channel that turns more than beta_fast times within the original context has seen every angle in training
    # and keeps its speed; one that turns fewer than beta_slow times is slowed by the factor; a ramp between.
    def channel_that_turns(times: float) -> float:
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = channel_that_turns(scaling.get("beta_fast") or 32)
    high = channel_that_turns(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    return frequencies / factor * ramp + frequencies * (1 - ramp), attention_factor(scaling, factor)


def yarn_factor(config: ModelConfig) -> float:
    """By how much YaRN stretches the context; 1 without it."""
    if _method(config) != "yarn":
        return 1.0
    scaling: dict[str, Any] = config.rope_scaling or {}
    original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
    return float(scaling.get("factor") or config.max_position_embeddings / original)


def yarn(config: ModelConfig, factor: float, original: int = 0) -> dict[str, Any]:
    """The `rope_scaling` that stretches a context of `original` tokens by `factor`.

    By default the original is what MiniMind's models have learned at most, 2,048 tokens, whatever larger number
    their `max_position_embeddings` promises.
    """
    original = original or min(config.max_position_embeddings, MAX_TRAINED)
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}


def context_length(config: ModelConfig) -> int:
    """Most tokens that the model is made for.

    Qwen's files leave `max_position_embeddings` as trained, to be multiplied by YaRN's factor; others write that.
    """
    scaling = config.rope_scaling or {}
    original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
    return max(config.max_position_embeddings, int(original * yarn_factor(config)))


def _method(config: ModelConfig) -> str:
    scaling = config.rope_scaling or {}
    return scaling.get("rope_type") or scaling.get("type") or "default"


def attention_factor(scaling: dict[str, Any], factor: float) -> float:
    """The paper's temperature, 0.1 ln(factor) + 1, on both queries and keys (through cos and sin)."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def temperature(mscale: float = 1.0) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and all_dim:
        return temperature(mscale) / temperature(all_dim)
    return temperature()
