"""The tensors of a checkpoint, each read only when it is needed, and directories that appear whole or not at all.

So a model far larger than the memory can be converted: one tensor (or one shard) is held at a time.
"""

import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from minimind.config import ModelConfig
from minimind.errors import UsageError, UserError
from minimind.files import check_file, write_json, writing_to
from minimind.model.files import open_safetensors
from minimind.model.qwen3 import Transformer
from minimind.model.store import INDEX, OTHER_HEAD, WEIGHTS, disk_names, weight_files

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class Stored(NamedTuple):
    """A tensor that has not been read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


def from_directory(directory: Path) -> dict[str, Stored]:
    """The tensors of a Hugging Face model directory, one file or sharded, by name.

    Raises:
        UserError: no weights there, a file is truncated, or a number format that models are not kept in.
    """
    files = weight_files(directory)
    found: dict[str, Stored] = {}
    with open_safetensors(set(files.values())) as handles:
        for name, path in files.items():
            try:
                about = handles[path].get_slice(name)
            except SafetensorError as error:
                raise UserError(f"{path}: cannot read tensor {name!r}: {error}") from None
            dtype = _DTYPES.get(about.get_dtype())
            if dtype is None:
                kinds = ", ".join(_DTYPES)
                raise UserError(f"{path}: tensor {name!r} is {about.get_dtype()}; give the model in one of {kinds}")
            found[name] = Stored(tuple(about.get_shape()), dtype, partial(handles[path].get_tensor, name))
    return found


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name on disk and shape of every tensor that a model of this configuration has."""
    with torch.device("meta"):
        parameters = dict(Transformer(config).named_parameters())
    return {
        name: tuple(parameter.shape[1:] if parameter.ndim == 3 else parameter.shape)  # [expert, out, in] is stacked
        for inner, parameter in parameters.items()
        for name in disk_names(inner, parameter)
    }


def select(stored: Mapping[str, Stored], config: ModelConfig, source: str) -> dict[str, Stored]:
    """Exactly the tensors that `config` calls for, in its order; `source` names the checkpoint in errors.

    Raises:
        UserError: naming every tensor that is missing, unexpected or of another shape.
    """
    wanted = expected_shapes(config)
    spare = {"lm_head.weight"} if config.tie_word_embeddings else set()  # some tools write the tied head too
    wrong = [name for name, shape in wanted.items() if name in stored and stored[name].shape != shape]
    complaints = {
        "missing": [name for name in wanted if name not in stored],
        "unexpected": [name for name in stored if name not in wanted and name not in spare],
        f"of another shape than {[list(wanted[name]) for name in wrong[:1]]}": wrong,
    }
    told = [f"{what}: {_summary(names)}" for what, names in complaints.items() if names]
    if told:
        raise UserError(f"{source} does not hold the tensors of its configuration ({'; '.join(told)})")
    if spare & stored.keys() and not same(stored["lm_head.weight"], stored["model.embed_tokens.weight"]):
        raise UserError(f"{source}: {OTHER_HEAD}")
    return {name: stored[name] for name in wanted}


def same(a: Stored, b: Stored) -> bool:
    """Whether two tensors are equal."""
    return a.shape == b.shape and torch.equal(a.read(), b.read())


def _summary(names: Iterable[str]) -> str:
    """All names, those that differ only in their numbers as one: `model.layers.*.mlp.gate.weight (8)`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name), []).append(name)
    return ", ".join(f"{pattern} ({len(one)})" if len(one) > 1 else one[0] for pattern, one in groups.items())


def write_weights(stored: Mapping[str, Stored], out: Path, dtype: torch.dtype | None, max_shard_bytes: int) -> int:
    """Write tensors as `model.safetensors`, or as numbered shards with an index where they need several.

    Args:
        stored: what to write, by name.
        out: an existing folder.
        dtype: number format; None keeps each tensor's own.
        max_shard_bytes: most bytes of tensors in a file; a single larger tensor gets a file of its own.

    Returns:
        The number of files.
    """
    sizes = {n: math.prod(one.shape) * (dtype or one.dtype).itemsize for n, one in stored.items()}
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    total = len(shards)
    files = [WEIGHTS] if total == 1 else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    for file, names in zip(files, shards, strict=True):
        tensors = {n: stored[n].read().to(dtype or stored[n].dtype).contiguous() for n in names}
        save_file(tensors, out / file, metadata={"format": "pt"})
    if total > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(out / INDEX, index)
    return total


def parse_size(text: str, flag: str) -> int:
    """Bytes of a size such as `500MB` or `2GB`.

    Raises:
        UsageError: not a size; `flag` is named.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise UsageError(f"{flag} {text}: write a size such as 500MB or 2GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def folder_figures(folder: Path, kind: str, builder: str) -> dict[str, Any]:
    """What an export into a folder has made: `{"folder", "bytes", "type", "builder"}`."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"folder": str(folder), "bytes": size, "type": kind, "builder": builder}


def check_new_directory(out: Path) -> None:
    """Refuse an `out` that `new_directory` could not make, before the long work begins.

    Raises:
        UserError: it is there already and not an empty folder, or cannot be written.
    """
    if out.resolve() == Path.cwd():
        raise UserError(f"{out} is the folder that you are in; name a new one, as in {out / 'model'}")
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another name or remove it first")
    if not out.is_dir():
        check_file(out)


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out`; afterwards rename it to `out`, or leave nothing of it.

    Raises:
        UserError: `out` is there already and not empty, or cannot be written.
    """
    check_new_directory(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with writing_to(out):
            temporary.mkdir(parents=True)
            try:
                yield temporary
            except SafetensorError as error:  # the library wraps what the system said
                raise OSError(str(error)) from None
            if out.is_dir():
                out.rmdir()
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
