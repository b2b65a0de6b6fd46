"""The tests of `tests/gpu`, through pytest: one row a test."""

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.work import Row, Tell, Work

TESTS = Path(__file__).parents[2] / "tests" / "gpu"


class Told:
    """A plugin of pytest that passes on how each test ended."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.failed = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called three times for each test: its call counts, and whatever goes wrong before or after."""
        if report.when == "call" or report.outcome != "passed":
            self.row(report, report.duration)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported."""
        if report.outcome == "failed":
            self.row(report, 0.0)

    def row(self, report: Any, seconds: float) -> None:
        """What is known of it."""
        self.failed |= report.outcome == "failed"
        name = report.nodeid.rpartition("/")[2]
        row: Row = {"test": name, "outcome": report.outcome, "seconds": round(seconds, 2)}
        self.tell(row | {"reason": reason(report)})


def reason(report: Any) -> str:
    """Why a test failed or was skipped, in a line."""
    if report.outcome == "passed":
        return ""
    long = report.longrepr
    if isinstance(long, tuple):  # of a skipped one: file, line, reason
        return long[2].removeprefix("Skipped: ")
    crash = getattr(long, "reprcrash", None)
    lines = (crash.message if crash else str(long)).strip().splitlines() or [""]
    return lines[0 if crash else -1][:200]


def correctness(work: Work, tell: Tell) -> None:
    """Run them in this process.

    Raises:
        AssertionError: one of them failed.
    """
    if work.on.type == "cpu":
        os.environ["MINIMIND_GPU_TESTS"] = "cpu"
    told = Told(tell)
    pytest.main(
        ["-m", "gpu", "-p", "no:cacheprovider", "--ignore", str(TESTS / "fake"), work.tests or str(TESTS)], [told]
    )
    assert not told.failed, "a test failed"
