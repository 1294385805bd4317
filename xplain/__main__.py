"""``python -m xplain`` and the ``xplain`` command."""

import io
import os
import signal
import sys


def main() -> None:
    """Run the command line on ``sys.argv`` and leave with its exit code."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _fill_streams()
        from xplain.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command line could say it, or again while it did
        code = 130
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # all is done: what ends the process now ends it quietly
    sys.exit(code)


def _fill_streams() -> None:
    """Nowhere for standard streams that are closed (``>&-``), so that no file gets their numbers; any bytes for paths."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")


if __name__ == "__main__":
    main()
