"""``python -m xplain`` and the ``xplain`` command."""

import io
import os
import signal
import sys


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its exit code."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _replace_closed_streams()
        _accept_all_characters()
        from xplain.core.threads import limit_spinning

        limit_spinning()
        from xplain.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command line handles signals, or while it reports one
        code = 130  # ExitCode.INTERRUPTED; nothing else is imported here, because the import can be interrupted
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # the command is done: a late signal ends the process without a traceback
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Replace closed standard streams (``>&-``) by the null device.

    Otherwise the next file that is opened would get the number of a closed stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is ``number``
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))


def _accept_all_characters() -> None:
    """Decode and encode every file name, and escape the characters that the encoding of an output stream lacks."""
    from xplain.cli._encoding import ERRORS

    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, ERRORS), (sys.stderr, ERRORS)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


if __name__ == "__main__":
    main()
