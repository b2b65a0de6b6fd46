"""Errors that are the user's to fix: one sentence that names the file, field or flag and the cure.

The command line prints them without a traceback and exits 1 (`UserError`: something failed) or 2
(`UsageError`: the command itself was wrong). Any other exception is a bug in MiniMind and keeps its traceback.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Something outside the program stopped it: a file, a format, a device, a full disk."""

    exit_code = 1


class UsageError(UserError):
    """The command line or the recipe asks for something that does not exist."""

    exit_code = 2


@contextmanager
def optional(missing: str) -> Iterator[None]:
    """Say `missing`, in which `{name}` is the library's name, where the block imports one that is not installed.

    Raises:
        UserError: it is not.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(missing.replace("{name}", str(error.name))) from None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"`, or the list of valid names where none is near."""
    options = sorted(options)
    near = get_close_matches(name, options, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(options)}"
