"""A model directory as one GGUF file, for llama.cpp and everything built on it (ollama, LM Studio, ...)."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minimind.console import progress
from minimind.convert import gguf_kquants
from minimind.convert.gguf_layout import Part, add_metadata, architecture, parts
from minimind.convert.gguf_tokenizer import add_tokenizer
from minimind.convert.tensors import from_directory, select
from minimind.errors import UsageError, UserError, did_you_mean, optional
from minimind.files import atomic_write, writing_to
from minimind.model.store import load_config
from minimind.tokenizer.bpe import Tokenizer

TYPES = ("f32", "bf16", "f16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0")


def export_gguf(model: Path, out: Path, kind: str = "f16", thinking: bool = True) -> dict[str, Any]:
    """Write the model directory `model` as the GGUF file `out`, which appears whole or not at all.

    Norms and routers stay float32. Below 8 bits the embedding, which is often the output matrix too, is kept at 8 (in
    K-quants at 6); a matrix whose rows are no multiple of 32, the block of the quantised types, at 16.

    Args:
        model: model directory with its tokenizer.
        out: file to write, ending in `.gguf`.
        kind: one of TYPES.
        thinking: whether the chat template can open a think block; llama.cpp opens it unless it is told not to.

    Returns:
        `{"file", "bytes", "architecture", "type", "tensors", "pre_tokenizer"}`.

    Raises:
        UsageError: no such type, or `out` is no `.gguf`.
        UserError: the model or its tokenizer has no equal in llama.cpp, is broken, or `out` cannot be written; or a
            K-quant is asked for where llama.cpp's quantiser is not installed.
    """
    check_type(kind)
    if out.suffix != ".gguf":
        raise UsageError(f"{out}: name a file that ends in .gguf")
    with optional("exporting GGUF needs the library gguf; pip install 'minimind[export]'"):
        import gguf
    config = load_config(model)
    arch = architecture(config, str(model))
    stored = select(from_directory(model), config, str(model))
    tokenizer = Tokenizer.load(model)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{model}: the tokenizer has {tokenizer.vocab_size} entries but the model only {config.vocab_size}"
        )
    writer = gguf.GGUFWriter(None, arch)
    writer.add_name(model.resolve().parent.name if model.name == "model" else model.resolve().name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_metadata(writer, config)
    pre = add_tokenizer(writer, tokenizer, config.vocab_size, thinking)
    chosen = [
        (part, gguf.GGMLQuantizationType[_type_of(part, kind, config.num_hidden_layers).upper()])
        for part in parts(config, stored)
    ]
    for part, type in chosen:
        shape = gguf.quant_shape_to_byte_shape(part.shape, type)
        writer.add_tensor_info(part.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=type)

    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary:
            _write(writer, temporary, chosen, out.name)
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "architecture": arch,
        "type": kind,
        "tensors": len(chosen),
        "pre_tokenizer": pre,
    }


def _write(writer: Any, file: Path, chosen: list[tuple[Part, Any]], title: str) -> None:
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress(f"writing {title}", sum(math.prod(part.shape) for part, _ in chosen)) as bar:
            for part, type in chosen:
                writer.write_tensor_data(_encode(part, type))
                bar.advance(math.prod(part.shape))
    finally:
        writer.close()


def check_type(kind: str) -> None:
    """Refuse a number format that is not in TYPES, or that cannot be made here.

    Raises:
        UsageError: with the nearest name.
        UserError: it takes a package that is not installed.
    """
    if kind not in TYPES:
        more = "; llama.cpp's llama-quantize makes others from f16" if "_k" in kind.lower() or "iq" in kind else ""
        raise UsageError(f"--type {kind}: there is no such type here{did_you_mean(kind.lower(), TYPES)}{more}")
    if kind in gguf_kquants.MIXED:
        gguf_kquants.library()


def _type_of(part: Part, kind: str, layers: int) -> str:
    """Number format of one tensor in a file of type `kind`."""
    if len(part.shape) == 1 or part.name.endswith("ffn_gate_inp.weight"):
        return "f32"
    if not kind.startswith("q"):
        return kind
    if part.shape[-1] % 32:
        return "f16"
    if kind in gguf_kquants.MIXED:
        return gguf_kquants.format_of(part.name, part.shape[-1], kind, layers)
    return "q8_0" if part.name in ("token_embd.weight", "output.weight") else kind


def _encode(part: Part, type: Any) -> np.ndarray:
    """The tensor's bytes in `type`, uint8 `[..., bytes of a row]`."""
    import gguf

    tensor = part.read()
    if type.name == "BF16":  # numpy has no bfloat16; torch rounds to nearest even, as it does everywhere
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    values = tensor.to(torch.float16).numpy() if type.name == "F16" else tensor.float().numpy()
    if type.name in ("Q4_K", "Q6_K"):
        return gguf_kquants.quantise(values, type.name.lower())
    return np.ascontiguousarray(gguf.quants.quantize(values, type)).view(np.uint8)
