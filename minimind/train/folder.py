"""The folder of a run: whether it can be written, and what says in it what ran, on what."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minimind import ranks, runtime
from minimind.errors import UserError
from minimind.files import existing, write_json, write_text
from minimind.text import write_toml


def check_writable(out: Path) -> None:
    """Refuse an `out` that could not be written, without creating anything: asked before the long work begins.

    Raises:
        UserError: it is, or would lie below, a regular file or a read-only folder.
    """
    place = existing(out)
    if not place.is_dir():
        raise _unwritable(out, f"{place} is a file")
    if not os.access(place, os.W_OK):
        raise _unwritable(out, f"{place} is read-only")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder: two would mix their lines and delete each other's checkpoints.

    The system takes the lock away from a process that dies. All ranks call this.

    Raises:
        UserError: another run is writing there, or nobody can.
    """
    lock, reason = FileLock(out / ".lock"), None
    if runtime.is_main():
        try:
            out.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # some network disks have no locks
                lock.acquire(timeout=0)
        except Timeout:
            reason = f"--out {out}: another run is writing there; wait for its end, or choose another folder"
        except OSError as error:
            reason = str(_unwritable(out, error.strerror or str(error)))
    if said := ranks.broadcast(reason):
        raise UserError(said)
    try:
        yield
    finally:
        lock.release()


def describe(recipe: dict[str, Any], out: Path) -> None:
    """Make the folder and write `recipe.toml` and `environment.json`; rank 0 writes, and all must see it.

    Raises:
        UserError: the folder cannot be written, or is not the same on all machines.
    """
    if runtime.is_main():
        try:
            out.mkdir(parents=True, exist_ok=True)
            for left in out.glob(".*.tmp"):  # by a run that was killed while it wrote
                left.unlink()
            write_text(out / "recipe.toml", write_toml(recipe))
            write_json(out / "environment.json", runtime.environment())
        except OSError as error:
            raise _unwritable(out, error.strerror or str(error)) from None
    ranks.barrier()  # now it is written
    if not (out / "environment.json").exists():
        raise UserError(f"--out {out}: not the same folder on all machines; choose one on a disk that they share")


def _unwritable(out: Path, why: str) -> UserError:
    return UserError(f"--out {out}: cannot be written ({why}); choose another folder")
