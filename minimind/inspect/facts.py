"""Where a fact lives: causal tracing (Meng et al. 2022, arXiv 2202.05262; with another question instead of noise).

Two questions that differ in a name are run. Then the second is run again and again, each time with the residual stream
at one position, after one layer, taken from the first: where that makes the model give the first one's answer, the
fact has passed. Shape letters are those of `trace`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minimind.errors import UserError
from minimind.inspect.trace import trace
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer

TOKENS_AT_ONCE = 4096


class CausalTrace(NamedTuple):
    """Probabilities of the clean question's answer, behind the last token."""

    answer: int
    """The token that is followed: what the clean run says first, if not another was asked about."""
    other: int
    """What the corrupt run says first."""
    clean: float
    corrupt: float
    """In the two runs as they are."""
    sources: list[int | None]
    """For each position of the corrupt run, the one of the clean run whose state is put there; None: there is none."""
    first: int
    """The first position where the questions differ: before it both runs are the same."""
    restored: Tensor
    """`[L + 1, T]`: in the corrupt run with the state put in before the first block (the embedding) and after each."""


def aligned(clean: Sequence[int], corrupt: Sequence[int]) -> tuple[list[int | None], int]:
    """Which position of `clean` belongs to each of `corrupt`, and the first where they differ.

    What they share at the beginning and at the end belongs together; what lies between (the names) is counted from its
    end, for a model knows who is meant after the last token of a name.
    """
    shortest = min(len(clean), len(corrupt))
    same = (i for i in range(shortest) if clean[i] != corrupt[i])
    first = next(same, shortest)
    behind = 0
    while behind < shortest - first and clean[-1 - behind] == corrupt[-1 - behind]:
        behind += 1
    shift = len(clean) - len(corrupt)
    return [t if t < first else t + shift if t + shift >= first else None for t in range(len(corrupt))], first


@torch.no_grad()
def causal_trace(
    model: Transformer, clean: Sequence[int], corrupt: Sequence[int], answer: int | None = None
) -> CausalTrace:
    """Run both questions, then the corrupt one once for each layer and position.

    Raises:
        UserError: no position has a state to put in.
    """
    sources, first = aligned(clean, corrupt)
    positions = [t for t in range(first, len(corrupt)) if sources[t] is not None]
    if not positions:
        raise UserError("both questions are the same, or one is the beginning of the other: ask about two people")
    clean_run, corrupt_run = trace(model, clean), trace(model, corrupt)
    clean_V, corrupt_V = (run.logits[-1].softmax(-1) for run in (clean_run, corrupt_run))
    answer = int(clean_V.argmax()) if answer is None else answer
    length, layers = len(corrupt), len(model.layers)
    restored = torch.full((layers + 1, length), float(corrupt_V[answer]))
    ids_1T = torch.tensor([list(corrupt)], device=clean_run.residual.device)
    for layer in range(layers + 1):
        for some in torch.tensor(positions).split(max(1, TOKENS_AT_ONCE // length)):
            states_BC = clean_run.residual[layer, [sources[t] for t in some.tolist()]]
            with _patched(model, layer, some, states_BC):
                ids_BT = ids_1T.expand(len(some), length)
                states = model(ids_BT, Segments.whole(ids_BT)).states[:, -1]
            restored[layer, some] = model.logits(states).float().softmax(-1)[:, answer].cpu()
    for t, source in enumerate(sources):
        if source is None:
            restored[:, t] = torch.nan
    return CausalTrace(
        answer, int(corrupt_V.argmax()), float(clean_V[answer]), float(corrupt_V[answer]), sources, first, restored
    )


@contextmanager
def _patched(model: Transformer, layer: int, positions_B: Tensor, states_BC: Tensor) -> Iterator[None]:
    """In row b of the next pass, the residual stream before block `layer` is `states_BC[b]` at `positions_B[b]`.

    A hook on what takes it: the block, or behind the last one the final norm.
    """
    taker = model.layers[layer] if layer < len(model.layers) else model.norm
    rows = torch.arange(len(positions_B))

    def put(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x_BTC = args[0].clone()
        x_BTC[rows, positions_B] = states_BC
        return (x_BTC, *args[1:])

    hook: Callable[..., Any] = put
    with taker.register_forward_pre_hook(hook):
        yield
