"""Run by torchrun in place of `-m minimind`: rank 1 kills itself in the middle of its N-th optimizer step."""

import sys

from minimind import runtime
from minimind.cli import main

if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    from processes import die_at

    if runtime.rank() == 1:
        die_at(int(sys.argv[2]), [])
    sys.exit(main(sys.argv[3:]))
