"""The decoding step in C++ (`decode.cpp`): built once by the machine's own compiler, called through `ctypes`.

Everything works without it, through `Transformer.forward`, but for a few sequences at a time it is two to three times
as fast. `make` returns None where it cannot be used.
"""

import ctypes
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from minimind import runtime
from minimind.compiler import what_is_missing
from minimind.console import dim, say, warn
from minimind.model.cache import KVCache, Newest, Span, tables_of
from minimind.model.qwen3 import Transformer

SOURCES = [Path(__file__).with_name(name) for name in ("decode.cpp", "products.h")]
FLAGS: tuple[str, ...] = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
# Sums may be reordered, or none would be vectorised. Not -ffast-math: a library linked with it makes the whole process
# treat subnormal numbers as zero from then on.
FLAGS += ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
LANES, STEP, ROWS = 16, 32, 4
"""Widths must be multiples of these: what the loops in `decode.cpp` take at once."""
COMPILER_SECONDS = 300.0
KINDS = {(torch.float32, False): 0, (torch.bfloat16, False): 1, (torch.bfloat16, True): 2, (torch.float32, True): 3}
"""By the weights' format, and whether their matrices are int8."""

Quantised = dict[str, tuple[Tensor, Tensor]]
"""Name of a parameter to its int8 rows and their float32 scales."""


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ff", "vocab")),
        *((name, ctypes.c_int64) for name in ("experts", "chosen", "normalise")),
        ("eps", ctypes.c_float),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("keys", "values", "tables")),
        *((name, ctypes.c_int64) for name in ("pages", "width")),
    ]

    @classmethod
    def at(cls, keys: Tensor, values: Tensor, tables_BW: Tensor) -> "_Cache":
        """Of all layers or one: keys and values `[..., K, P, PAGE, D]`."""
        return cls(keys.data_ptr(), values.data_ptr(), tables_BW.data_ptr(), keys.shape[-3], tables_BW.shape[1])


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "sequences", "threads")),
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "owners", "last", "cos", "sin")),
        ("cache", _Cache),
        ("logits", ctypes.c_void_p),
    ]


class _Newest(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "heads", "kv_heads", "head_dim", "threads")),
        *((name, ctypes.c_void_p) for name in ("q", "positions")),
        ("cache", _Cache),
        ("out", ctypes.c_void_p),
    ]


class DecodeStep:
    """The compiled step of one model over one cache. It reads the model's weights where they are: those must stay."""

    def __init__(self, library: ctypes.CDLL, model: Transformer, cache: KVCache, quantised: Quantised | None) -> None:
        config = model.config
        self._library, self._model, self._cache, self._quantised = library, model, cache, quantised
        self._kind = KINDS[model.output_weight.dtype, quantised is not None]
        self.max_tokens: int = library.max_tokens(self._kind)
        """With more tokens than this, the model itself is as fast."""
        sparse = config.num_experts > 0
        self._shape = _Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.moe_intermediate_size if sparse else config.intermediate_size,
            config.vocab_size,
            config.num_experts,
            config.num_experts_per_tok,
            config.norm_topk_prob,
            config.rms_norm_eps,
        )
        # Kept, and detached, so that no address outlives its memory even where a parameter gets other data.
        self._tensors = [None if tensor is None else tensor.detach() for tensor in self._look_up()]
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in self._tensors]
        self._addresses = (ctypes.c_void_p * len(addresses))(*addresses)

    def takes(self, spans: Sequence[Span]) -> bool:
        """Whether it is faster than the model itself for these tokens."""
        return sum(span.end - span.start for span in spans) <= self.max_tokens

    def __call__(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Run the tokens `ids` of all spans; return the scores of what may follow each, float32 `[spans, vocab]`."""
        ids_N, tables_BW = torch.tensor(ids), tables_of(spans)
        positions_N = torch.tensor([position for span in spans for position in span.positions])
        owners_N = torch.tensor([number for number, span in enumerate(spans) for _ in span.positions])
        last_B = torch.tensor([end - 1 for end in accumulate(span.end - span.start for span in spans)])
        rotation = self._model.rope(positions_N[None])
        cos, sin = rotation.cos.contiguous(), rotation.sin.contiguous()
        logits_BV = torch.empty(len(spans), self._shape.vocab)
        step = _Step(
            len(ids),
            len(spans),
            torch.get_num_threads(),
            *(tensor.data_ptr() for tensor in (ids_N, positions_N, owners_N, last_B, cos, sin)),
            _Cache.at(self._cache.keys, self._cache.values, tables_BW),
            logits_BV.data_ptr(),
        )
        self._library.decode(self._kind, ctypes.byref(self._shape), ctypes.byref(step), self._addresses)
        return logits_BV

    def _look_up(self) -> list[Tensor | None]:
        """The weights in the order of `Model` and `Layer` in `decode.cpp`."""
        config, weights = self._model.config, dict(self._model.named_parameters())

        def matrix(name: str) -> tuple[Tensor, Tensor | None]:
            return self._quantised[name] if self._quantised else (weights[name], None)

        head = "embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        found = [weights["embed_tokens.weight"], weights["norm.weight"], *matrix(head)]
        for i in range(config.num_hidden_layers):
            attention, mlp = f"layers.{i}.self_attn.", f"layers.{i}.mlp."
            found.append(weights[f"layers.{i}.input_layernorm.weight"])
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                found += matrix(f"{attention}{name}.weight")
            found += [weights[f"{attention}q_norm.weight"], weights[f"{attention}k_norm.weight"]]
            found += [weights[f"layers.{i}.post_attention_layernorm.weight"], weights.get(f"{mlp}gate.weight")]
            for name in ("gate_proj", "up_proj", "down_proj"):
                found += matrix(f"{mlp}experts.{name}" if config.num_experts else f"{mlp}{name}.weight")
        return found


def make(model: Transformer, cache: KVCache, quantised: Quantised | None = None) -> DecodeStep | None:
    """The compiled step, or None: no CPU, no compiler, a model with hooks, or a shape or number format that it
    does not have."""
    config, weight = model.config, model.output_weight
    widths = [config.hidden_size, config.num_attention_heads * config.head_dim]
    widths += [config.moe_intermediate_size if config.num_experts else config.intermediate_size]
    mixed = config.num_experts > 0 and not all(config.is_sparse(i) for i in range(config.num_hidden_layers))
    if (
        weight.device.type != "cpu"
        or (weight.dtype, quantised is not None) not in KINDS
        or config.attention_bias
        or mixed
        or model.adaptation
        or any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())  # would not be called
    ):
        return None
    if any(width % STEP for width in widths) or config.head_dim % LANES or config.vocab_size % ROWS:
        return None
    library = _library()
    return DecodeStep(library, model, cache, quantised) if library else None


def attention(cache: KVCache) -> Newest | None:
    """The compiled attention over the pages of a cache, or None where there is none, as with `make`.

    For passes through the model, which would copy those pages together before they attend.
    """
    kind = KINDS.get((cache.keys.dtype, False))
    library = _library() if cache.keys.device.type == "cpu" and cache.keys.shape[-1] % LANES == 0 else None
    if library is None or kind is None:
        return None

    def attend(q_NHD: Tensor, keys: Tensor, values: Tensor, tables_NW: Tensor, positions_N: Tensor) -> Tensor:
        q_NHD, tables_NW = q_NHD.to(keys.dtype).contiguous(), tables_NW.contiguous()
        out_NHD = torch.empty_like(q_NHD)
        newest = _Newest(
            *q_NHD.shape[:2],
            *(keys.shape[0], keys.shape[-1], torch.get_num_threads()),
            *(q_NHD.data_ptr(), positions_N.data_ptr()),
            _Cache.at(keys, values, tables_NW),
            out_NHD.data_ptr(),
        )
        library.attend_newest(kind, ctypes.byref(newest))
        return out_NHD

    return attend


def quantise(model: Transformer) -> Quantised:
    """Round every matrix to int8 with a scale for each of its rows, in the model too; return the int8 form.

    The largest weight of a row becomes ±127. The model keeps the rounded values, so that prompts, which PyTorch
    computes, see the same weights as the decoding step.
    """
    quantised: Quantised = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2 or name.endswith("mlp.gate.weight"):
                continue
            scale = weight.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
            rows = (weight.float() / scale).round().to(torch.int8)
            weight.copy_(rows * scale)
            quantised[name] = (rows.contiguous(), scale.flatten().contiguous())
    return quantised


def _ours(path: Path) -> bool:
    """Whether nobody else can have put there what we are about to run."""
    if os.name == "nt":
        return True  # the cache lies in the user's profile, where others may not write
    found = path.lstat()
    others = stat.S_IWOTH if found.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & others and not stat.S_ISLNK(found.st_mode)


def _loaded(path: Path) -> ctypes.CDLL | None:
    """A library that was built before; None where there is none, or it is damaged or somebody else's."""
    try:
        return ctypes.CDLL(str(path)) if _ours(path) else None
    except OSError:
        return None


def _built(path: Path, compiler: str) -> ctypes.CDLL:
    """Build it under a name that nobody knows beforehand, and only then give it its own."""
    say(dim("Building the decoding step for this processor, once: 5 to 30 s."))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        command = [compiler, *FLAGS, str(SOURCES[0]), "-o", str(unfinished)]
        try:
            ended = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=COMPILER_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"the compiler has not finished within {COMPILER_SECONDS:g} s") from None
        if ended.returncode:
            raise OSError(what_is_missing(ended.stderr))
        unfinished.chmod(0o700)
        unfinished.replace(path)
    return ctypes.CDLL(str(path))


@cache
def _library() -> ctypes.CDLL | None:
    """Build `decode.cpp` for this very processor, unless it has been; None where that is not possible."""
    compiler = runtime.cpp_compiler()
    if sys.platform != "linux" or compiler is None or not runtime.may_compile():
        return None
    identity = [*(source.read_text(encoding="utf-8") for source in SOURCES), compiler, FLAGS, runtime.processor()]
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    path = runtime.cache_dir() / "kernels" / f"decode-{name}.so"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _ours(path.parent):
            raise OSError(f"{path.parent} belongs to another user, or others may write there")
        library = _loaded(path) or _built(path, compiler)
    except OSError as error:
        warn(f"decoding without the compiled step, at a third of its speed: {path} could not be built ({error})")
        return None
    library.decode.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 3]
    library.decode.restype = None
    library.attend_newest.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.attend_newest.restype = None
    library.max_tokens.restype = ctypes.c_int64
    return library
