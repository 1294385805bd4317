"""Console output: results on stdout and one-line log messages on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xplain.core.errors import InputError, ModelNote
from xplain.core.files import printable, to_json

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
    return not lines or _write(lambda: print(*lines, sep="\n", flush=True))


def print_json(*records: Mapping[str, Any]) -> bool:
    """Print one JSON record per line, in UTF-8 whatever the encoding of stdout. Returns and raises as ``print_lines``."""
    return not records or _print_bytes(*(to_json(record).encode() for record in records))


def print_paths(*paths: str) -> bool:
    """Print one path per line: on a pipe the bytes of the file system. Returns and raises as ``print_lines``."""
    if os.name == "nt" or sys.stdout.isatty():
        return print_lines(*paths)
    return not paths or _print_bytes(*map(os.fsencode, paths))


def write_bytes(content: bytes) -> bool:
    """Write bytes on stdout and flush. Returns and raises as ``print_lines``."""

    def write() -> None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    return _write(write)


def _print_bytes(*lines: bytes) -> bool:
    """Print encoded lines on stdout, or their text if stdout takes text only."""
    if not hasattr(sys.stdout, "buffer"):
        return print_lines(*(line.decode("utf-8", "surrogateescape") for line in lines))
    return write_bytes(b"\n".join(lines) + b"\n")


def _write(write: Callable[[], None]) -> bool:
    """Run a function that writes on stdout. Returns and raises as ``print_lines``."""
    try:
        write()
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
