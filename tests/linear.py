"""Whether time grows as the input does: what a stranger sends must not cost the square of its size."""

import gc
import time


def assert_linear(run, at_most=8.0):
    """`run(n)` must take less than `at_most` times as long for four times as much; the square would take sixteen."""
    run(1)  # imports and caches
    for _attempt in range(3):  # caches have other work, too
        once, four = _seconds(run, 1), _seconds(run, 4)
        if four < at_most * max(once, 0.02):
            return
    raise AssertionError(f"{once:.3f} s, and {four:.3f} s for four times as much")


def _seconds(run, n):
    gc.collect()
    gc.disable()  # it takes its turn in one run and not in the next, and looks at everything that the process has
    try:
        start = time.process_time()
        run(n)
        return time.process_time() - start
    finally:
        gc.enable()
