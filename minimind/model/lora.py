"""LoRA: train a small change of a matrix, and leave the matrix as it is.

Fine-tuning makes W₀ into W₀ + ΔW. Hu et al. 2021 (https://arxiv.org/abs/2106.09685) found that ΔW may have a small rank
r, so they write it as a product and train its factors alone, r · (in + out) numbers instead of in · out:

    y = W₀ x + s · B A x          A [r, in], B [out, r], s = alpha / r

B starts at 0: training starts from exactly the base. Two variations:

    rsLoRA   s = alpha / √r: with alpha / r a larger rank learns more slowly
             (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732)
    DoRA     W = m · V / ‖V‖ row by row, V = W₀ + s · B A: the length m [out] of each row is trained by itself, from
             ‖W₀‖ on; ‖V‖ counts as a constant in the gradient (Liu et al. 2024, https://arxiv.org/abs/2402.09353)
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minimind.errors import UsageError
from minimind.model.linear import Linear, linear
from minimind.model.moe import Experts, grouped_linear
from minimind.model.qwen3 import Transformer
from minimind.model.settings import LoraConfig


@dataclass(frozen=True)
class Adaptation:
    """How a model is adapted, and which weights it is a change of."""

    config: LoraConfig
    names: tuple[str, ...]
    """Of the adapted matrices, without `.weight`."""
    base: Path
    checksum: int
    """Of the base's weight files; 0: not known."""


class Update(nn.Module):
    """The change of one matrix `[out, in]`, or of one of each expert, `[experts, out, in]`."""

    def __init__(self, weight: Tensor, config: LoraConfig) -> None:
        super().__init__()
        *experts, rows, columns = weight.shape
        on = weight.device
        self.A = nn.Parameter(torch.empty(*experts, config.rank, columns, dtype=torch.float32, device=on))
        self.B = nn.Parameter(torch.zeros(*experts, rows, config.rank, dtype=torch.float32, device=on))
        self.magnitude = nn.Parameter(weight.detach().float().norm(dim=-1)) if config.dora else None
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)
        bound = 1 / math.sqrt(columns)
        nn.init.uniform_(self.A, -bound, bound)

    def change(self, x: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """s · B A x for rows `[..., in]`; `product` multiplies each with a matrix, or with that of its expert."""
        return product(product(self.dropout(x), self.A) * self.scale, self.B)

    def factor(self, weight: Tensor) -> Tensor | None:
        """What DoRA multiplies each row's product with, m / ‖V‖ `[out]`: exactly 1 while B is 0."""
        if self.magnitude is None:
            return None
        with torch.no_grad():
            length = self._direction(weight).norm(dim=-1)
        return self.magnitude / length

    def whole(self, weight: Tensor) -> Tensor:
        """The changed matrix, in float32."""
        direction, factor = self._direction(weight), self.factor(weight)
        return direction if factor is None else direction * factor[..., None]

    def _direction(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight.float() + self.scale * (self.B @ self.A)


class LoraLinear(Linear):
    """A linear layer with a change; the weight is that of the layer that it replaces."""

    def __init__(self, layer: Linear, config: LoraConfig) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.lora = Update(layer.weight, config)
        self.on = True

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if not self.on:
            return super().forward(input)
        change, factor = self.lora.change(input, linear), self.lora.factor(self.weight)
        if factor is None:
            return linear(input, self.weight, self.bias) + change
        y = (linear(input, self.weight) + change) * factor.to(change.dtype)
        return y if self.bias is None else y + self.bias


class LoraExperts(Experts):
    """Experts with a change of some of their matrices, each expert its own."""

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        for matrix in self.MATRICES:
            self.register_parameter(matrix, getattr(experts, matrix))
        self.lora = nn.ModuleDict()
        self.on = True

    def project(self, matrix: str, x_MI: Tensor, ends_E: Tensor) -> Tensor:
        """Multiply each expert's rows with its changed matrix: `[M, in] -> [M, out]`."""
        y_MO = super().project(matrix, x_MI, ends_E)
        if not self.on or matrix not in self.lora:
            return y_MO
        update = self.lora[matrix]
        assert isinstance(update, Update)
        y_MO = y_MO + update.change(x_MI, lambda x, factors: grouped_linear(x, factors, ends_E))
        factor_EO = update.factor(getattr(self, matrix))
        if factor_EO is None:
            return y_MO
        expert_M = torch.bucketize(torch.arange(len(x_MI), device=x_MI.device), ends_E, right=True)
        return y_MO * factor_EO[expert_M].to(y_MO.dtype)


def attach(model: Transformer, config: LoraConfig, base: Path, checksum: int = 0) -> None:
    """Give the matrices that `config.targets` names a change that is still 0, and freeze everything else.

    Args:
        model: changed in place.
        config: rank, scale and patterns.
        base: the directory that the model was read from.
        checksum: of its weights.

    Raises:
        UsageError: a pattern matches nothing, or the rank is larger than a matrix.
    """
    names = choose(model, config)
    model.requires_grad_(False)
    for name in names:
        parent, _, matrix = name.rpartition(".")
        module = model.get_submodule(parent)
        if not isinstance(module, Experts):
            setattr(module, matrix, LoraLinear(getattr(module, matrix), config))
            continue
        if not isinstance(module, LoraExperts):
            module = LoraExperts(module)
            model.set_submodule(parent, module)
        module.lora[matrix] = Update(getattr(module, matrix), config)
    model.adaptation = Adaptation(config, tuple(names), base, checksum)
    model.train(model.training)  # the new modules too


def choose(model: Transformer, config: LoraConfig) -> list[str]:
    """Names of the matrices that `config.targets` matches, by their ends or as patterns; raises as `attach` does."""
    shapes = matrices(model)
    chosen: set[str] = set()
    for pattern in config.targets:
        found = {name for name in shapes if fnmatchcase(f".model.{name}", f"*.{pattern}")}
        if not found:
            known = sorted({name.rsplit(".", 1)[-1] for name in shapes})
            raise UsageError(
                f"lora.targets: {pattern!r} matches no matrix; there are {', '.join(known)}, "
                f"in names such as {next(iter(shapes))}"
            )
        chosen |= found
    names = [name for name in shapes if name in chosen]
    for name in names:
        rows, columns = shapes[name][-2:]
        if config.rank > min(rows, columns):
            raise UsageError(
                f"lora.rank = {config.rank} is more than {name} of {rows} × {columns} can have; "
                f"use at most {min(rows, columns)}"
            )
    return names


def matrices(model: Transformer) -> dict[str, torch.Size]:
    """Shapes of the matrices that can be adapted: linear layers `[out, in]`, stacked experts `[experts, out, in]`."""
    shapes = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            shapes[name] = module.weight.shape
        elif isinstance(module, Experts):
            shapes |= {f"{name}.{matrix}": getattr(module, matrix).shape for matrix in module.MATRICES}
    return shapes


def freeze_in(model: Transformer, dtype: torch.dtype) -> None:
    """Keep the frozen matrices in the format that they are multiplied in: autocast would round them to it anyway.

    Embeddings, norms and routers stay float32, and the residual stream with them.
    """
    for module in model.modules():
        if isinstance(module, Linear | Experts):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


@contextmanager
def off(model: Transformer) -> Iterator[None]:
    """Inside, the model is its base: the reference of policy losses, without a second copy."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear | LoraExperts)]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.on = True


def updates(model: nn.Module) -> dict[str, Update]:
    """Every change, by the name of the parameter that it changes."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            found[f"{name}.weight"] = module.lora
        elif isinstance(module, LoraExperts):
            found |= {f"{name}.{matrix}": update for matrix, update in module.lora.items()}
    return found


@torch.no_grad()
def plain_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights of a model that has no adapter and computes the same; those that were adapted are in float32."""
    changes, plain = updates(model), {}
    for name, parameter in model.named_parameters():
        if name in changes:
            plain[name] = changes[name].whole(parameter)
        elif ".lora." not in name:
            plain[name] = parameter.detach()
    return plain


def merged(model: Transformer) -> Transformer:
    """A model without adapter that computes the same; what was not adapted is shared."""
    with torch.device("meta"):
        plain = Transformer(model.config)
    plain.load_state_dict(plain_weights(model), assign=True)
    return plain.train(model.training)


def flops_per_token(model: Transformer, context: float) -> float:
    """Floating-point operations of training on one token, as `ModelConfig.flops_per_token` counts them.

    A frozen matrix has two products instead of three: there is no gradient of its own.
    """
    config, about = model.config, model.adaptation
    full = config.flops_per_token(context)
    if about is None:
        return full
    frozen = config.flops_per_token(0) / 6  # weights of the matrices that a token passes
    changes = 0.0
    for name, shape in matrices(model).items():
        if name in about.names:
            active = config.num_experts_per_tok if len(shape) == 3 else 1
            changes += active * about.config.rank * sum(shape[-2:])
    return full - 2 * frozen + 6 * changes


def trained_parameters(model: Transformer) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def report(model: Transformer) -> str:
    """How much of an adapted model is trained, in words."""
    assert model.adaptation
    changes = trained_parameters(model)
    base = sum(parameter.numel() for parameter in model.parameters()) - changes
    return (
        f"{changes:,} parameters are trained, {changes / base:.2%} of the model's {base:,}, in "
        f"{len(model.adaptation.names)} matrices"
    )
