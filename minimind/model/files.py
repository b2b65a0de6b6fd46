"""The weight files of model directories."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from minimind.errors import UserError
from minimind.files import checksum


@contextmanager
def open_safetensors(paths: set[Path]) -> Iterator[dict[Path, Any]]:
    """Open safetensors files for reading; which one is missing or broken is said in one sentence."""
    handles = {}
    for path in paths:
        try:
            handles[path] = safe_open(path, framework="pt")
        except FileNotFoundError:
            raise UserError(f"{path}, which the index names, is missing: download the model again") from None
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is not a readable safetensors file ({error}); copy or download it again") from None
    yield handles


def weights_checksum(directory: Path) -> int:
    """What tells the weights of a model directory from others."""
    return zlib.crc32(repr([checksum(file) for file in sorted(directory.glob("*.safetensors"))]).encode())
