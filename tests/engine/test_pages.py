"""The pages of the cache: none is lost, and none is shared but by sequences with the same tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minimind.engine.pages import Pages, first_name, next_name

TEXTS = st.lists(st.integers(0, 1), min_size=1, max_size=4)  # of pages: few, so that many begin alike


def names(owner, text):
    """The names of the pages of a text; each number stands for a page full of it."""
    found = [first_name((None, owner))]
    for number in text:
        found.append(next_name(found[-1], [number] * 16))
    return found[1:]


class History(RuleBasedStateMachine):
    """Sequences come, share what they find, write the rest, name it and go."""

    @initialize(count=st.integers(1, 12))
    def begin(self, count):
        self.count, self.pages = count, Pages(count)
        self.content = [None] * count  # what was last written to each page
        self.tables = []

    @rule(owner=st.sampled_from("ab"), text=TEXTS, unnamed=st.integers(0, 2))
    def come(self, owner, text, unnamed):
        wanted = names(owner, text)
        found = self.pages.find(wanted)
        free, users = self.pages.free, list(self.pages.users)
        for place, page in enumerate(found):
            assert self.content[page] == (owner, text[: place + 1]), "found, and it holds something else"
        table = self.pages.take(len(text) - len(found) + unnamed, found)
        if table is None:
            unused = sum(users[page] == 0 for page in found)
            assert len(text) - len(found) + unnamed > free - unused
            assert (self.pages.free, self.pages.users) == (free, users), "nothing is changed"
            return
        assert table[: len(found)] == found
        assert all(users[page] == 0 for page in table[len(found) :]), "taken, and somebody uses it"
        for place, page in enumerate(table[len(found) :], len(found)):
            self.content[page] = (owner, text[: place + 1]) if place < len(text) else None
        for page, name in zip(table, wanted, strict=False):
            self.pages.name(page, name)
        self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def go(self, data):
        self.pages.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @rule()
    def forget(self):
        self.pages.forget()
        assert not self.pages.find(names("a", [0]))
        self.content = [None] * self.count

    @invariant()
    def every_page_is_free_or_in_tables(self):
        if hasattr(self, "tables"):
            users = [sum(page in table for table in self.tables) for page in range(self.count)]
            assert self.pages.users == users
            assert self.pages.free == users.count(0)
            assert all(len(set(table)) == len(table) for table in self.tables)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


@settings(max_examples=50, derandomize=True)
@given(st.text(), st.text(), TEXTS, TEXTS)
def test_names_are_those_of_one_owner_and_one_text(owner, other, text, another):
    same = (owner, text) == (other, another)
    assert (names(owner, text)[-1] == names(other, another)[-1]) == same


def test_the_end_of_a_text_is_taken_before_its_beginning_and_what_has_no_name_first():
    pages = Pages(4)
    table = pages.take(4)
    for page, name in zip(table[:3], names("a", [1, 2, 3]), strict=True):
        pages.name(page, name)
    pages.release(table)
    assert pages.take(1) == [table[3]]
    assert pages.find(names("a", [1, 2, 3])) == table[:3]
    assert pages.take(1) == [table[2]]
    assert pages.find(names("a", [1, 2, 3])) == table[:2]
