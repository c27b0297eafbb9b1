"""`python -m modelprobe` is `modelprobe`, from the first moment on: an interruption while it starts is one as well."""

from __future__ import annotations

import gc
import sys

STORED_COMMANDS = ("flops", "memory", "summary", "training")
"""Commands whose answer may stand in the store already; no other waits for it."""


def start() -> int:
    """The console command. Nothing but the interpreter itself is imported before this runs."""
    gc.set_threshold(100_000, 50, 100)  # importing torch makes a million objects that stay: look for garbage less often
    try:
        if sys.argv[1:2] and sys.argv[1] in STORED_COMMANDS:
            from modelprobe.cli.answers import print_stored

            code = print_stored(sys.argv[1:])
            if code is not None:
                return code
        from modelprobe.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201 - the module that would print it is not there yet
        return 130


if __name__ == "__main__":
    sys.exit(start())
