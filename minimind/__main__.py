"""`python -m minimind`, which is also what torchrun starts."""

import sys

from minimind.cli import main

if __name__ == "__main__":
    sys.exit(main())
