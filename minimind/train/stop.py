"""Stopping a run so that nothing is lost: signals become a request that the loop answers between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from minimind import runtime
from minimind.console import say


class StopRequest:
    """Asked between steps; set by a signal or by the time budget."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self) -> bool:
        """Whether somebody asked."""
        return self.wanted

    def request(self) -> None:
        """Ask for a stop after the current step."""
        self.wanted = True


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGHUP and the first Ctrl-C into a request to save and stop; the second Ctrl-C stops at once."""
    stop = StopRequest()

    def handle(number: int, frame: object) -> None:
        stop.request()
        if number == signal.SIGINT:  # SIGTERM comes from a scheduler, or from torchrun after another rank has died
            say("Saving a checkpoint, then stopping (Ctrl-C again stops at once).")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    wanted = [signal.SIGINT, signal.SIGTERM]
    # The terminal or the ssh connection is closed. Not on Windows; `nohup` ignores it, and so do we then.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    previous = {}
    for number in wanted:
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # not in the main thread: whoever runs us there handles signals
            break
    try:
        yield stop
    except RuntimeError:
        if runtime.world_size() > 1:  # torchrun ends this rank after another has failed; it shall still say why
            previous.pop(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
