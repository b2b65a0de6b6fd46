"""The command line: `minimind COMMAND ...`. Each command's module is imported only when it is called."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import minimind
from minimind import ranks, runtime
from minimind.commands import COMMANDS, main_of
from minimind.errors import UsageError, UserError, did_you_mean

HELP = """MiniMind {version}: train, talk to and understand your own language model.

usage: minimind COMMAND [options]        minimind COMMAND --help

{commands}

Where to begin:
  minimind demo                          from nothing to a talking model
  minimind chat runs/demo/sft/model      talk to it
  minimind train pretrain laptop --data corpus.jsonl
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 fine, 1 failed, 2 wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # A program may be started with a stream closed (`<&-`).
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(os.devnull, mode)  # noqa: SIM115
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
    for stream in (sys.stdout, sys.stderr):  # Windows consoles: Chinese text whatever the code page
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    if hasattr(sys.stdin, "reconfigure"):  # in what the terminal writes; see `minimind.text`
        sys.stdin.reconfigure(errors="replace")
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # the reader of our results (`| head`) has gone; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
        print(HELP.format(version=minimind.__version__, commands=lines))
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"minimind {minimind.__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise UsageError(f"no command {argv[0]!r}{did_you_mean(argv[0], COMMANDS)}")
    runtime.share_cores()
    runtime.keep_memory()
    runtime.keep_few_kernels()
    return main_of(argv[0])(argv[1:])


def _complain(message: str, code: int) -> int:
    if ranks.speaks_for_all():
        with suppress(OSError):  # nobody may be left to read it; the exit code says it, too
            print(f"minimind: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
