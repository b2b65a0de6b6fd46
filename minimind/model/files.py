"""Files of model directories: safetensors, JSON, checksums; each is written whole or not at all."""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from minimind.errors import UserError


@contextmanager
def opened(paths: set[Path]) -> Iterator[dict[Path, Any]]:
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; afterwards sync it to the disk and move it to `path`, or leave nothing of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object")
    return content


def checksum(file: Path) -> int:
    """CRC-32: it is to find broken disks and cut writes, and takes a quarter of a cryptographic hash's time."""
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def weights_checksum(directory: Path) -> int:
    """What tells the weights of a model directory from others."""
    return zlib.crc32(repr([checksum(file) for file in sorted(directory.glob("*.safetensors"))]).encode())
