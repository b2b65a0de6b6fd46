import pytest

from minimind import console


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    time = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def lines(monkeypatch):
    """What a bar prints where stderr is no terminal."""
    printed = []
    monkeypatch.setattr(console, "say", printed.append)
    return printed


def test_the_time_left_follows_from_the_pace_since_the_start(clock, lines):
    with console.progress("work", 100, done=50) as bar:
        clock[0] = 20.0
        bar.advance(10, "note")
    assert lines == ["work: 60%, 80 s left  note"]


def test_nothing_done_yet_gives_no_estimate(clock, lines):
    with console.progress("work", 100) as bar:
        clock[0] = 20.0
        bar.advance(0, "compiling")
    assert lines == ["work: 0 done  compiling"]


def test_figures_are_written_as_people_read_them():
    cases = {64123456: "64,123,456", 0.95312: "0.9531", 3.1e-5: "3.1e-05", 1234.56: "1,234.6", None: "–", "a": "a"}
    assert {value: console.format_figure(value) for value in cases} == cases
