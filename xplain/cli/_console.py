"""Console output: results on stdout and one-line log messages on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from xplain.core.errors import InputError, ModelNote
from xplain.core.files import printable

log = logging.getLogger("xplain")
WARNINGS_LOGGER = "py.warnings"  # where logging.captureWarnings sends warnings
PREFIXES = {logging.ERROR: "error: ", logging.WARNING: "warning: "}


class _StderrHandler(logging.Handler):
    """Print each message on one line of the current sys.stderr, with control characters escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.name == WARNINGS_LOGGER else PREFIXES.get(record.levelno, "")
        try:
            print(f"xplain: {prefix}{printable(record.getMessage())}", file=sys.stderr, flush=True)
        except OSError:  # stderr is closed; continue without it
            discard_output(2)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print log messages and warnings on stderr while the block runs, each on one line."""
    handler = _StderrHandler()
    root, format_warning, level = logging.getLogger(), warnings.formatwarning, log.level
    with warnings.catch_warnings():
        warnings.simplefilter("default", ModelNote)
        logging.captureWarnings(True)
        warnings.formatwarning = _format_warning
        log.setLevel(logging.INFO)
        root.addHandler(handler)
        handler.addFilter(_DropRepeatedNotes())
        try:
            yield
        finally:
            root.removeHandler(handler)
            log.setLevel(level)
            logging.getLogger(WARNINGS_LOGGER).setLevel(logging.NOTSET)
            warnings.formatwarning = format_warning
            logging.captureWarnings(False)


def silence_notes() -> None:
    """Suppress everything but errors until ``log_to_stderr`` exits (``--quiet``)."""
    log.setLevel(logging.ERROR)
    logging.getLogger(WARNINGS_LOGGER).setLevel(logging.ERROR)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format an xplain note or a library warning as one line."""
    label = "note" if issubclass(category, ModelNote) else "warning"
    return f"{label}: {' '.join(str(message).split())}"


def print_lines(*lines: str) -> bool:
    """Print lines to stdout and flush. Return False if the reader closed the pipe (as in ``| head``); the caller must then stop printing.

    Raise InputError if writing to stdout fails for another reason.
    """
    if not lines:
        return True
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        discard_output()
        return False
    except OSError as error:
        discard_output()
        message = f"cannot write to stdout: {error.strerror}"
        raise InputError(message, "free disk space or redirect the output to another file") from None
    return True


def discard_output(stream: int = 1) -> None:
    """Redirect stdout (or stderr, if ``stream`` is 2) to /dev/null, including buffered output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


class _DropRepeatedNotes(logging.Filter):
    """Drop a note that was printed before, for example because a data set is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print a message."""
        text = record.getMessage()
        if record.name != WARNINGS_LOGGER or not text.startswith("note: "):
            return True
        is_new = text not in self._printed
        self._printed.add(text)
        return is_new
