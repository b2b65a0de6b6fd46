"""The pages of the key/value cache: which are free, who uses which, and what lies in them. Plain Python, no tensors.

A sequence has a *block table*, the list of its pages (`model/cache.py` says what lies where). It takes a page when its
tokens need one, and gives all of them back at its end.

A page that is full does not change any more, and what is in it depends on the tokens up to its end alone. So a page is
named after those tokens, and a sequence that begins with them puts the same page into its table: nothing is computed
again and nothing is copied. `users` counts who has it. When the last of them has gone the page is free, but keeps its
name until somebody takes it for other tokens; the one that has been free for longest is taken first.

Names are SHA-256 digests, each of the page's tokens and the name of the page before it. Two texts with one digest are
not known, so that nobody can read a stranger's page by making up a text (faster hashes do not promise that).
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256


def first_name(owner: tuple[str | None, str]) -> bytes:
    """What the names of an owner's pages begin from: only requests of one owner share pages."""
    return sha256(repr(owner).encode()).digest()


def next_name(before: bytes, ids: Sequence[int]) -> bytes:
    """The name of a page with these tokens behind the page named `before`."""
    return sha256(before + array("q", ids).tobytes()).digest()


class Pages:
    """Who has which of `count` pages."""

    def __init__(self, count: int) -> None:
        self.users = [0] * count
        """How many block tables hold each page."""
        self._free = OrderedDict.fromkeys(range(count))
        """In the order in which they are taken."""
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """How many pages nobody uses."""
        return len(self._free)

    def find(self, names: Iterable[bytes]) -> list[int]:
        """The pages of as many of these names, from the first on, as there are."""
        found = []
        for name in names:
            if name not in self._named:
                break
            found.append(self._named[name])
        return found

    def take(self, count: int, shared: Sequence[int] = ()) -> list[int] | None:
        """Use `shared` pages and `count` others; None, and nothing is changed, if so many are not free."""
        if count > self.free - sum(self.users[page] == 0 for page in shared):
            return None
        for page in shared:
            self._free.pop(page, None)
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for page in taken:
            self._named.pop(self._names.pop(page, b""), None)
        for page in (*shared, *taken):
            self.users[page] += 1
        return [*shared, *taken]

    def release(self, table: Sequence[int]) -> None:
        """Use the pages of a block table no longer.

        Its end becomes free before its beginning, which others are likelier to begin with; pages without a name are the
        first to be taken.
        """
        for page in reversed(table):
            self.users[page] -= 1
            if not self.users[page]:
                self._free[page] = None
                self._free.move_to_end(page, last=page in self._names)

    def name(self, page: int, name: bytes) -> None:
        """Note what is in a page, from now on for good; of two pages with the same tokens one has the name."""
        if name not in self._named:
            self._named[name], self._names[page] = page, name

    def forget(self) -> None:
        """Forget what is in all pages; free ones are then taken in the order of a new cache."""
        self._names.clear()
        self._named.clear()
        self._free = OrderedDict.fromkeys(sorted(self._free))
