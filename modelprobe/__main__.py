"""`python -m modelprobe` is `modelprobe`."""

import sys

from modelprobe.cli import main

if __name__ == "__main__":
    sys.exit(main())
