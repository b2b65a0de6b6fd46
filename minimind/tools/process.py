"""A process apart that answers questions, one JSON line each: what runs there can be stopped, and only it dies.

It is given none of our environment's keys. Questions carry a number that cannot be guessed, and only the line that
brings it back is an answer: whatever else the process writes, this time or the last, is read over.
"""

import json
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from minimind import runtime

ROOT = Path(__file__).parents[2]


class Late(Exception):
    """No answer came in time; the process was ended."""


class Died(Exception):
    """The process ended without an answer."""


class Process:
    """`python -m MODULE ARGUMENTS`, started when it is needed, and again after it died. Not thread-safe."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether it is there: a question need not wait for a start."""
        return self._running is not None

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            Late, Died: there is none.
        """
        running = self._running or self._start()
        number, until = secrets.token_hex(16), time.monotonic() + seconds
        assert running.stdin
        try:
            running.stdin.write(json.dumps({"number": number, **question}).encode() + b"\n")
            running.stdin.flush()
            answer: dict[str, Any] = {}
            while answer.pop("number", None) != number:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
                if not line:
                    raise OSError("its end of the pipe is closed")
                answer = _answer(line)
        except OSError:
            self.close()
            raise Died from None
        except Empty:
            self.close()
            raise Late from None
        return answer

    def close(self) -> None:
        """End the process."""
        running, self._running = self._running, None
        if running:
            running.kill()
            running.wait()
            for pipe in (running.stdin, running.stdout):
                if pipe:
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._running = subprocess.Popen(self._command, **pipes, cwd=ROOT, env=runtime.bare_environment())
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=_read, args=(self._running, self._lines), daemon=True).start()
        return self._running


def _answer(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _read(process: "subprocess.Popen[bytes]", lines: "SimpleQueue[bytes]") -> None:
    """Pass the lines on; a thread, because a pipe cannot be waited for with a time limit everywhere."""
    assert process.stdout
    try:
        while line := process.stdout.readline():
            lines.put(line)
    except (OSError, ValueError):
        pass  # closed under our hands
    lines.put(b"")
