import errno
import io
import sys

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


def test_the_first_step_warms_up_and_does_not_count(clock, lines):
    with console.progress("work", 100) as bar:
        clock[0] = 30.0
        bar.advance()
        clock[0] = 31.0
        bar.advance()
        assert bar.seconds_left() == pytest.approx(98)


def test_answers_at_once_are_foreseen_when_the_first_one_ends(clock, lines):
    """249 s were announced for 20 s: one of 64 had ended."""
    with console.progress("asking", 60, at_once=64) as bar:
        clock[0] = 5.0
        bar.advance()
        assert 2 < bar.seconds_left() < 10
        clock[0] = 10.0
        bar.advance(59)
        assert bar.seconds_left() == 0


def test_a_second_wave_is_foreseen_by_the_first(clock, lines):
    with console.progress("asking", 128, at_once=64) as bar:
        clock[0] = 5.0
        bar.advance(64)
        assert bar.seconds_left() == pytest.approx(5)


def test_lines_under_a_bar_are_printed_in_a_pipe_and_the_whole_work_is_said_last(clock, lines):
    with console.in_all(lambda bar: "ten minutes in all"), console.progress("work", 10) as bar:
        bar.show(["once upon"])
        clock[0] = 20.0
        bar.advance(5, "note")
        assert bar.lines() == ["note", "once upon", "ten minutes in all"]
    assert list(map(str, lines)) == ["once upon", "work: 50%, 20 s left  note  ten minutes in all"]
    with console.progress("other", 10) as bar:
        assert bar.lines() == []


def test_a_sparkline_goes_from_its_lowest_to_its_highest():
    assert console.sparkline([8.0, 4.5, 1.0]) == "█▅▁"
    assert console.sparkline(range(1000), 8) == console.BLOCKS
    assert console.sparkline([2.0, float("nan"), 2.0]) == "▁▁"
    assert console.sparkline([]) == ""


def test_what_takes_many_days_is_told_in_days():
    assert [console.duration(seconds) for seconds in (65, 359_999, 20_281_708.3)] == [
        "0:01:05",
        "4 days, 3:59:59",
        "235 days",
    ]


class Gone(io.StringIO):
    """A stream that nothing can be written to any more."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


REENTRANT = RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "pipe"), OSError(errno.EIO, "terminal"), REENTRANT])
def test_talk_that_nobody_hears_does_not_end_the_work(error, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone(error))
    console.say("lost")
    with console.progress("work", 1) as bar:
        bar.advance()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.say("heard")
    assert sys.stderr.getvalue() == "heard\n"
    monkeypatch.setattr(sys, "stdout", Gone(error))
    with pytest.raises(type(error)):
        console.table("results", ["name"], [["x"]])
