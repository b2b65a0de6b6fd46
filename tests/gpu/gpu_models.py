"""Models and packed rows for the tests on a GPU: the real shapes there, next to nothing in a rehearsal on a CPU."""

import os
from dataclasses import replace

import torch

from minimind.config import PRESETS
from minimind.model.attention import Segments
from minimind.model.rope import yarn
from minimind.model.transformer import Transformer

REHEARSED = os.environ.get("MINIMIND_GPU_TESTS") == "cpu"
LESS = {"hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 128, "head_dim": 32, "vocab_size": 512}
LESS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}


def shape(kind):
    """`dense`, `moe` or `yarn`."""
    config = PRESETS["minimind-3-moe" if kind == "moe" else "minimind-3"]
    config = config.with_(
        initializer_range=0.04, **(LESS if REHEARSED else {})
    )  # larger: logits with some life in them
    return config.with_(rope_scaling=yarn(config, 4.0, original=64)) if kind == "yarn" else config


def build(kind, device, **changes):
    """The same weights on every device, in float32."""
    torch.manual_seed(7)
    return Transformer(replace(shape(kind), **changes)).eval().to(device)


def rows(config, documents, length):
    """Packed rows, one a list of document lengths, filled up with padding: ids and segments, on the CPU."""
    random = torch.Generator().manual_seed(3)
    ids_BT = torch.randint(config.vocab_size, (len(documents), length), generator=random)
    document_ids_BT = torch.full((len(documents), length), -1, dtype=torch.int32)
    positions_BT = torch.zeros((len(documents), length), dtype=torch.int64)
    for row, lengths in enumerate(documents):
        begin = 0
        for number, size in enumerate(lengths):
            document_ids_BT[row, begin : begin + size] = number
            positions_BT[row, begin : begin + size] = torch.arange(size)
            begin += size
    return ids_BT, Segments(document_ids_BT, positions_BT)


def masked(segments):
    """The same rows, but with branches (of which there is one), so that attention takes its way with a mask."""
    return segments._replace(branches=torch.zeros(segments.positions.shape, dtype=torch.uint8))


def moved(segments, device):
    """Segments on another device."""
    return Segments(*(part if part is None else part.to(device) for part in segments))


def apart(wrong, right):
    """Length of the difference over that of what is right."""
    wrong, right = wrong.detach().double().cpu(), right.detach().double().cpu()
    return float((wrong - right).norm() / right.norm())
