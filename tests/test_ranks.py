"""What ranks say to each other; whole runs of several are in `tests/train` and `tests/stages`."""

import itertools

import pytest

from minimind import ranks


class Store:
    """Where ranks meet: a wait for what nobody has said yet would be for ever."""

    def __init__(self):
        self.said = set()

    def set(self, key, value):
        self.said.add(key)

    def wait(self, keys, timeout):
        if not set(keys) <= self.said:
            raise TimeoutError


def test_the_others_wait_each_time(monkeypatch):
    monkeypatch.setattr(ranks, "_store", Store())

    @ranks.main_first("shards")
    def build():
        pass

    def become(main):
        monkeypatch.setattr(ranks, "is_main", lambda: main)
        monkeypatch.setattr(ranks, "_turns", itertools.count())

    become(main=True)
    build()
    become(main=False)
    build()
    with pytest.raises(TimeoutError):
        build()
