"""Hugging Face `datasets` as one more source of JSON lines: `hf:NAME`, or a directory (extra `data`)."""

import json
from collections.abc import Iterator
from os.path import isdir
from pathlib import Path
from typing import Any

from minimind.errors import UserError, optional

PREFIX = "hf:"


def is_dataset(name: str) -> bool:
    """Whether `name` means a dataset, not a JSON Lines file."""
    return name.startswith(PREFIX) or isdir(name)


def read_lines(name: str, skip: int = 0) -> Iterator[tuple[bytes, int]]:
    """Stream the rows of the split `train` after the first `skip`, each as a JSON line with its length.

    Raises:
        UserError: `datasets` is not installed, or cannot open or read `name`.
    """
    rows = _open(name).skip(skip)
    try:
        for row in rows:
            line = json.dumps(row, default=str).encode("ascii")  # a date that the library has recognized becomes text
            yield line, len(line)
    except Exception as error:  # as below: a damaged file, one with other columns than the first, a lost connection
        cure = f"name its files, as in {_folder(name)}/*.jsonl" if _folder(name).is_dir() else "run the command again"
        raise UserError(f"{name}: cannot be read as a dataset ({_in_a_line(error)}); {cure}") from error


def local_files(name: str) -> list[Path]:
    """The files of a dataset directory; none for a dataset on the hub."""
    return sorted(path for path in _folder(name).rglob("*") if path.is_file()) if _folder(name).is_dir() else []


def _folder(name: str) -> Path:
    return Path(name.removeprefix(PREFIX))


def _open(name: str) -> Any:
    with optional(f"{name}: reading datasets needs a library; pip install 'minimind[data]'"):
        import datasets
    folder = _folder(name)
    try:
        if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            return (saved["train"] if isinstance(saved, datasets.DatasetDict) else saved).to_iterable_dataset()
        return datasets.load_dataset(
            str(folder) if folder.is_dir() else folder.as_posix(), split="train", streaming=True
        )
    except Exception as error:  # the library raises many kinds, all meaning that this name cannot be read
        raise UserError(f"{name}: cannot be opened as a dataset ({_in_a_line(error)})") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
