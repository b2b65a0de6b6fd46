"""K-quants for GGUF files: blocks of 256 weights with scales of scales, made by llama.cpp's own code.

The Python package `xllamacpp` is llama.cpp in one library, and `ggml_quantize_chunk` is among what it exports.
"""

import ctypes
import importlib.util
import math
from functools import cache

import numpy as np

from minimind.errors import UserError

BLOCK = 256
MIXED = {"q6_k": ("q6_k", "q6_k"), "q4_k_m": ("q4_k", "q6_k")}
"""The usual format of a file's matrices, and that of those which matter more."""
WIDER = {"q4_k": "q5_0", "q6_k": "q8_0"}
"""What a matrix gets instead whose rows are no multiple of 256."""
_IDS = {"q4_k": 12, "q6_k": 14}
"""`enum ggml_type`."""


def format_of(name: str, columns: int, kind: str, layers: int) -> str:
    """The format of one matrix, as llama.cpp's own tool chooses it.

    The output matrix, and the values and the second feed-forward matrix in about half of the layers (the first and last
    eighth, and every third between), are kept finer; queries, keys and values in one matrix count as values.
    """
    usual, finer = MIXED[kind]
    chosen = usual
    if name in ("token_embd.weight", "output.weight"):
        chosen = finer
    elif ".attn_v." in name or ".attn_qkv." in name or ".ffn_down" in name:
        layer = int(name.split(".")[1])
        first = layers // 8
        if layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2:
            chosen = finer
    return WIDER[chosen] if columns % BLOCK else chosen


def quantise(values: np.ndarray, kind: str) -> np.ndarray:
    """float32 `[..., n]` in the format q4_k or q6_k: uint8 `[..., bytes of a row]`; n is a multiple of 256."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    columns = values.shape[-1]
    rows = values.size // columns
    size = library().ggml_row_size(_IDS[kind], columns)
    out = np.empty((*values.shape[:-1], size), dtype=np.uint8)
    library().ggml_quantize_chunk(_IDS[kind], values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert math.prod(out.shape) == rows * size
    return out


@cache
def library() -> ctypes.CDLL:
    """llama.cpp with its quantiser.

    Raises:
        UserError: it is not installed; with the line that installs it.
    """
    try:
        spec = importlib.util.find_spec("xllamacpp.xllamacpp")
        library = ctypes.CDLL(spec.origin if spec else None)
        chunk, row_size = library.ggml_quantize_chunk, library.ggml_row_size
    except (ImportError, OSError, AttributeError):
        raise UserError("K-quants are made by llama.cpp's own quantiser; pip install xllamacpp") from None
    chunk.restype, row_size.restype = ctypes.c_size_t, ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    return library
