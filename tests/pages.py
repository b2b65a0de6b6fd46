"""Runs the blocks of one page in order: `python pages.py < blocks`, as JSON `[[language, code, output], ...]`.

Python runs in one namespace; each `minimind` line in a process of its own, forked from one that has torch already;
`torchrun` lines as themselves, those that end in `&` together with the next one, as nodes of one run.
"""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from multiprocessing import get_context

FORKS = sys.platform != "win32"


def minimind(argv):
    """A whole `minimind` process; what it prints is not the page's output."""
    from minimind.cli import main

    os.dup2(2, 1)
    sys.exit(main(argv))


def run_commands(code, context):
    together = []
    for line in filter(None, code.splitlines()):
        program, *argv = shlex.split(line.removesuffix("&"))
        if program == "minimind":
            process = context.Process(target=minimind, args=(argv,))
            process.start()
            process.join()
            assert process.exitcode == 0, line
            continue
        assert program == "torchrun", line
        together.append(subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *argv], stdout=sys.stderr))
        if not line.endswith("&"):
            assert [process.wait() for process in together] == [0] * len(together), line
            together = []


def run_python(code, expected, space):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "page", "exec"), space)
    assert expected is None or printed.getvalue() == expected, f"printed:\n{printed.getvalue()}page:\n{expected}"


if __name__ == "__main__":
    context = get_context("forkserver" if FORKS else "spawn")
    if FORKS:
        context.set_forkserver_preload(["minimind.stages.pretrain"])
    space = {"__name__": "page"}
    for language, code, expected in json.loads(sys.stdin.read()):
        if language == "bash":
            run_commands(code, context)
        else:
            run_python(code, expected, space)
