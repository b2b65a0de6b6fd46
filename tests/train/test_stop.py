"""Signals that ask a run to stop."""

import io
import os
import signal
import sys

import pytest

from minimind.train.stop import stop_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="other signals")


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_asks_and_leaves_everything_as_it_was(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler)
    with stop_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.signal(number, before) is signal.default_int_handler


def test_the_second_interrupt_stops_at_once():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_that_also_ended_the_reader_of_stderr_is_a_request_all_the_same(monkeypatch):
    """`minimind train ... 2>&1 | tee log`: Ctrl-C goes to both."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()


def test_what_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop()
