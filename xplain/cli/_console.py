"""Console output: results on stdout and one-line log messages on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xplain.core.current_image import current_image
from xplain.core.errors import InputError, ModelNote
from xplain.core.files import printable, to_json

log = logging.getLogger("xplain")
WARNINGS_LOGGER = "py.warnings"  # where logging.captureWarnings sends warnings
NOTE = "note"
PREFIXES = {logging.ERROR: "error: ", logging.WARNING: "warning: "}


class _StderrHandler(logging.Handler):
    """Print each message on one line of the current sys.stderr, with control characters escaped.

    A message of a library names the image that caused it, and is printed once per image; ``quiet`` hides it.
    """

    quiet = False

    def emit(self, record: logging.LogRecord) -> None:
        text = _format_record(record) if record.name == log.name else self._format_library_message(record)
        if not text:
            return
        try:
            print(f"xplain: {printable(text)}", file=sys.stderr, flush=True)
        except OSError:  # nobody reads standard error; the command continues
            discard_output(2)

    def _format_library_message(self, record: logging.LogRecord) -> str:
        """Return the line for a message of a library or a note of xplain; empty if it is not printed."""
        label, text = "warning", " ".join(record.getMessage().split())
        if record.name == WARNINGS_LOGGER:
            label, _, text = text.partition(": ")
        image = current_image()
        if self.quiet or (image and text in image.warned):
            return ""
        if image:
            image.warned.add(text)
        return f"{label}: {text}" if image is None or label == NOTE else f"{label}: {image.name!r}: {text}"


def _format_record(record: logging.LogRecord) -> str:
    return f"{PREFIXES.get(record.levelno, '')}{record.getMessage()}"


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print log messages and warnings on stderr while the block runs, each on one line."""
    handler = _StderrHandler()
    root, format_warning, level = logging.getLogger(), warnings.formatwarning, log.level
    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):  # of every image, not of the first with the same text
            warnings.filterwarnings("always", category=category, module=r"PIL\.")
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
            warnings.formatwarning = format_warning
            logging.captureWarnings(False)


def silence_notes() -> None:
    """Suppress everything but errors until ``log_to_stderr`` exits (``--quiet``)."""
    log.setLevel(logging.ERROR)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _StderrHandler):
            handler.quiet = True


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a note of xplain, or the warning of a library, on one line."""
    label = NOTE if issubclass(category, ModelNote) else "warning"
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
