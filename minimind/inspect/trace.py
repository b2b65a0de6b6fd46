"""What happens inside a forward pass, seen by hooks on the model's own modules.

Nothing here computes the model a second time, and a model that nobody traces has no hooks:

    residual[0]      the embedding
    residual[l + 1]  = residual[l] + attention_out[l] + mlp_out[l]
    logits           = norm(residual[layers]) · output matrixᵀ

`without` switches parts of the model off in the same way. Shape letters: L layers, T tokens, C hidden, H query heads, K
key/value heads, D head_dim, E experts, V vocabulary, N tokens of all texts of a pass.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from minimind.errors import UsageError
from minimind.model.attend import LayerAttention, Layout, Segments
from minimind.model.moe import MixtureOfExperts
from minimind.model.qwen3 import Block, Transformer


class Contributions(NamedTuple):
    """What each part of the model added to one token's logit at one position; their sum is the logit.

    The final norm divides the sum of all parts by its root mean square and multiplies each channel by a weight. With
    that divisor taken as the constant that it was here, the logit is linear in the parts. It is not what the logit
    would be without a part: then the divisor, and what later parts say, would be others (`without` shows that).
    """

    logit: float
    embedding: float
    attention: Tensor
    """`[L]`: of each attention block."""
    heads: Tensor
    """`[L, H]`: of each head; a layer's add up to its attention (but for the bias of `o_proj`, where there is one)."""
    mlp: Tensor
    """`[L]`: of each MLP (or mixture of experts)."""
    scale: float
    """1 / root mean square of the residual stream: what the final norm multiplies every part with."""


class Trace:
    """One text's way through the model. Tensors are detached, in the model's number format, on its device.

    `logits_per_layer` and `attention` are computed when they are first asked for, by the model's own norm, output
    matrix and attention kernel.
    """

    ids: list[int]
    """The text, T token ids."""
    residual: Tensor
    """`[L + 1, T, C]`: the residual stream, before the first block (the embedding), then after each."""
    attention_out: Tensor
    """`[L, T, C]`: what each attention block adds to it."""
    mlp_out: Tensor
    """`[L, T, C]`: what each MLP or mixture of experts adds to it."""
    heads_out: Tensor
    """`[L, T, H, D]`: what each head says, before `o_proj` maps it to the residual stream."""
    router: dict[int, Tensor]
    """By number of a sparse layer: the probability of each expert, `[T, E]`, float32; empty for a dense model."""

    def __init__(self, model: Transformer, ids: Sequence[int], seen: "_Seen", place: slice) -> None:
        heads = (model.config.num_attention_heads, model.config.head_dim)
        self._model, self._seen, self._place, self.ids = model, seen, place, list(ids)
        self.residual = torch.stack([x[place] for x in seen.residual])
        self.attention_out = torch.stack([x[place] for x in seen.attention_out])
        self.mlp_out = torch.stack([x[place] for x in seen.mlp_out])
        self.heads_out = torch.stack([x[place].unflatten(-1, heads) for x in seen.heads_out])
        self.router = {layer: probabilities[place] for layer, probabilities in seen.router.items()}

    @torch.no_grad()
    def logits_of_layers(self) -> Iterator[Tensor]:
        """The logits `[T, V]`, float32, that the residual stream amounts to before the first block and after each."""
        for x_TC in self.residual:
            yield self._logits(x_TC)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        return self._model.logits(self._model.norm(x[None]))[0].float()

    @cached_property
    def logits(self) -> Tensor:
        """The model's own, of the last layer: float32 `[T, V]`."""
        return self._logits(self.residual[-1])

    def logits_at(self, position: int) -> Tensor:
        """`logits_per_layer` at one position: float32 `[L + 1, V]`."""
        return self._logits(self.residual[:, position])

    @cached_property
    def logits_per_layer(self) -> Tensor:
        """The logit lens (nostalgebraist 2020): float32 `[L + 1, T, V]`; the last are the model's logits."""
        return torch.stack(list(self.logits_of_layers()))

    @cached_property
    def attention(self) -> Tensor:
        """`[L, H, T, T]`: how much of each token (last) a token (last but one) takes; each row sums to 1."""
        return torch.stack(list(self.attention_of_layers()))

    @torch.no_grad()
    def attention_of_layers(self) -> Iterator[Tensor]:
        """Each layer's `[H, T, T]`: what its attention answers where the value of token s is the s-th unit vector."""
        length = len(self.ids)
        hidden = torch.full((length, length), -math.inf, dtype=self.residual.dtype, device=self.residual.device).triu(1)
        causal = Layout(hidden[None, None])
        for q_NHD, k_NKD in self._seen.queries_and_keys:
            q_1THD, k_1TKD = q_NHD[None, self._place], k_NKD[None, self._place]
            units = torch.eye(length, dtype=q_1THD.dtype, device=q_1THD.device)
            units_1TKT = units[:, None].expand(length, k_1TKD.shape[2], length)[None]
            yield causal.attend(q_1THD, k_1TKD, units_1TKT)[0].transpose(0, 1)

    @torch.no_grad()
    def contributions(self, position: int, token: int) -> Contributions:
        """What each part adds to the logit that `token` comes after the token at `position`."""
        model, norm = self._model, self._model.norm
        final_C = self.residual[-1, position].float()
        scale = torch.rsqrt(final_C.square().mean() + norm.eps)
        direction_C = model.output_weight[token].float() * norm.weight.float() * scale

        def of(x: Tensor) -> Tensor:
            return x.float() @ direction_C

        heads = []
        for layer, said_HD in zip(blocks(model), self.heads_out[:, position], strict=True):
            o_proj = layer.self_attn.o_proj
            alone_HX = torch.block_diag(*said_HD)  # one head a row, the others silent
            heads.append(of(o_proj(alone_HX) - (0 if o_proj.bias is None else o_proj.bias)))
        return Contributions(
            float(of(final_C)),
            float(of(self.residual[0, position])),
            of(self.attention_out[:, position]),
            torch.stack(heads),
            of(self.mlp_out[:, position]),
            float(scale),
        )


class _Seen:
    """What the hooks saw, layer by layer, each `[N, ...]`."""

    def __init__(self) -> None:
        self.residual: list[Tensor] = []
        self.attention_out: list[Tensor] = []
        self.mlp_out: list[Tensor] = []
        self.heads_out: list[Tensor] = []
        self.router: dict[int, Tensor] = {}
        self.queries_and_keys: list[tuple[Tensor, Tensor]] = []


class _Recorded(NamedTuple):
    """A layer's attention that also keeps what it was asked."""

    inner: LayerAttention
    seen: _Seen

    def attend(self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        """What `inner` answers."""
        self.seen.queries_and_keys.append((q_BTHD[0], k_BTKD[0]))
        return self.inner.attend(q_BTHD, k_BTKD, v_BTKD)


class _Recording(NamedTuple):
    """The attention of a pass, recorded; never compiled, for compiled blocks call no hooks."""

    segments: Segments
    seen: _Seen
    repeats: bool = False

    @property
    def positions(self) -> Tensor:
        return self.segments.positions

    @property
    def padding(self) -> Tensor:
        return self.segments.padding

    def of_layers(self, layers: int, dtype: torch.dtype) -> Sequence[_Recorded]:
        return [_Recorded(one, self.seen) for one in self.segments.of_layers(layers, dtype)]


def blocks(model: Transformer) -> list[Block]:
    """The layers of a model."""
    return cast(list[Block], list(model.layers))


def packed(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Segments]:
    """Texts one after the other in a single row: ids `[1, N]`, and who sees whom."""
    document_ids = torch.tensor([[number for number, ids in enumerate(texts) for _ in ids]], dtype=torch.int32)
    positions = torch.tensor([[position for ids in texts for position in range(len(ids))]])
    ids_1N = torch.tensor([[id for ids in texts for id in ids]])
    return ids_1N.to(device), Segments(document_ids.to(device), positions.to(device), host_ids=document_ids)


@torch.no_grad()
def traces(model: Transformer, texts: Sequence[Sequence[int]]) -> list[Trace]:
    """Run the model once over several texts; each one's trace is as if it had been alone.

    Raises:
        UsageError: a text is empty, or holds an unknown id.
    """
    vocabulary = model.config.vocab_size
    for ids in texts:
        if not ids:
            raise UsageError("there is nothing to trace: give at least one token")
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise UsageError(f"the text holds a token id outside the model's vocabulary of {vocabulary}")
    ids_1N, segments = packed(texts, model.output_weight.device)
    seen = _Seen()
    with _watched(model, seen):
        model(ids_1N, _Recording(segments, seen))
    found, start = [], 0
    for ids in texts:
        found.append(Trace(model, ids, seen, slice(start, start + len(ids))))
        start += len(ids)
    return found


def trace(model: Transformer, ids: Sequence[int]) -> Trace:
    """Run the model over one text and keep what happens on the way.

    Raises:
        UsageError: the text is empty, or holds an unknown id.
    """
    return traces(model, [ids])[0]


@contextmanager
def _watched(model: Transformer, seen: _Seen) -> Iterator[None]:
    """Hooks that write to `seen`, for as long as this lasts."""

    def keep(where: list[Tensor]) -> Callable[..., None]:
        return lambda module, args, *out: where.append(_first(out[0] if out else args)[0])

    def route(number: int) -> Callable[..., None]:
        def keep_probabilities(module: MixtureOfExperts, args: tuple[Tensor, Tensor]) -> None:
            seen.router[number] = module.route(args[0][0])

        return keep_probabilities

    with ExitStack() as stack:
        for number, block in enumerate(blocks(model)):
            stack.enter_context(block.register_forward_pre_hook(keep(seen.residual)))
            stack.enter_context(block.self_attn.o_proj.register_forward_pre_hook(keep(seen.heads_out)))
            stack.enter_context(block.self_attn.register_forward_hook(keep(seen.attention_out)))
            stack.enter_context(block.mlp.register_forward_hook(keep(seen.mlp_out)))
            if isinstance(block.mlp, MixtureOfExperts):
                stack.enter_context(block.mlp.register_forward_pre_hook(route(number)))
        stack.enter_context(model.norm.register_forward_pre_hook(keep(seen.residual)))
        yield


def _first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


@contextmanager
def without(
    model: Transformer, head: tuple[int, int] | None = None, mlp: int | None = None, layer: int | None = None
) -> Iterator[None]:
    """Let parts of the model add nothing to the residual stream (zero ablation), for as long as this lasts.

    Args:
        model: it is not changed; its weights neither.
        head: layer and number of an attention head.
        mlp: layer of an MLP or mixture of experts.
        layer: of an attention block and an MLP together.

    Raises:
        UsageError: there is no such part.
    """
    layers, heads = len(model.layers), model.config.num_attention_heads
    for number in (mlp, layer, head and head[0]):
        if number is not None and not 0 <= number < layers:
            raise UsageError(f"there is no layer {number}: the model has {layers}, from 0 to {layers - 1}")
    if head is not None and not 0 <= head[1] < heads:
        raise UsageError(f"there is no head {head[1]}: a layer has {heads}, from 0 to {heads - 1}")
    with ExitStack() as stack:
        if head is not None:
            size = model.config.head_dim
            silent = slice(head[1] * size, (head[1] + 1) * size)
            hook = blocks(model)[head[0]].self_attn.o_proj.register_forward_pre_hook(_silenced(silent))
            stack.enter_context(hook)
        if layer is not None:
            stack.enter_context(blocks(model)[layer].self_attn.register_forward_hook(_nothing))
        for number in (mlp, layer):
            if number is not None:
                stack.enter_context(blocks(model)[number].mlp.register_forward_hook(_nothing))
        yield


def _silenced(channels: slice) -> Callable[..., tuple[Tensor]]:
    def zeroed(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0].clone()
        x[..., channels] = 0
        return (x,)

    return zeroed


def _nothing(module: Any, args: Any, out: Any) -> Any:
    if isinstance(out, tuple):  # of a mixture of experts, which also says where its tokens went
        return (torch.zeros_like(out[0]), *out[1:])
    return torch.zeros_like(out)
