"""Exceptions, exit codes and warnings.

An error message is one line: the wrong value, the rule that it breaks, and what to do.
"""

import errno
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from enum import IntEnum
from itertools import takewhile

from xplain.core.option_words import in_words_of_caller


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    BUG = 1
    USAGE_ERROR = 2
    INPUT_ERROR = 3
    DEVICE_ERROR = 4
    PARTIAL = 5
    INTERRUPTED = 130


EXIT_DONE, EXIT_BUG, EXIT_USAGE, EXIT_INPUT, EXIT_DEVICE, EXIT_PARTIAL, EXIT_INTERRUPTED = ExitCode

DEVICE_ERROR_TEXTS = (
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "CUBLAS_STATUS",
    "CUSOLVER_STATUS",
    "HIP error",
    "MPS backend",
)
MIXED_DEVICES_TEXTS = (
    "Expected all tensors to be on the same device",
    "indices should be either on cpu or on the same device",
)
OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
# Errors that models raise for inputs that they do not accept.
MODEL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
SYSTEM_ERROR_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


class XplainError(Exception):
    """An error that the user can fix. ``str(error)`` is one line, ``message; hint``: what is wrong; what to do.

    Outside of a command, options in the text become keyword arguments.
    """

    exit_code: int = ExitCode.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = in_words_of_caller(" ".join(message.split()))
        self.hint = in_words_of_caller(" ".join(hint.split()))
        super().__init__(f"{self.message}; {self.hint}" if hint else self.message)


def add_hint(error: XplainError, hint: str) -> str:
    """Return a hint that follows the suggestion ("did you mean ...?") of an error, if it has one."""
    return f"{error.hint} If not, {hint}" if error.hint.endswith("?") else hint


class UsageError(XplainError):
    """Invalid usage, such as an unknown name, a parameter out of range or conflicting options."""

    exit_code = ExitCode.USAGE_ERROR


class UnknownMethodError(UsageError):
    """A metric depends on the method that made a map, which is unknown.

    parameter: of the metric, with a value that replaces the method, if there is one.
    """

    def __init__(self, message: str, hint: str, parameter: str = "") -> None:
        super().__init__(message, hint)
        self.parameter = parameter


class InputError(XplainError):
    """An image, weights file, label or run directory is missing or invalid."""

    exit_code = ExitCode.INPUT_ERROR


class DeviceError(XplainError):
    """The device is unavailable, failed or ran out of memory."""

    exit_code = ExitCode.DEVICE_ERROR


class StoppedError(XplainError):
    """The user interrupted a command that cannot be resumed."""

    exit_code = ExitCode.INTERRUPTED


def no_image_error() -> UsageError:
    """Return the error of a command without images."""
    return UsageError(
        "no images specified", "pass files, directories, glob patterns, @list.txt, - or --files-from FILE"
    )


class ModelNote(UserWarning):
    """A warning about what was detected or assumed about a model or its classes."""


def emit_note(text: str) -> None:
    """Emit a ModelNote whose location is the first caller outside xplain. Outside of a command, it names keyword arguments."""
    level = 1
    while _is_own_module(level):
        level += 1
    warnings.warn(in_words_of_caller(text), ModelNote, stacklevel=level)


def _is_own_module(level: int) -> bool:
    """Return whether the stack frame at ``level``, counted from the caller, belongs to xplain."""
    try:
        module = sys._getframe(level).f_globals.get("__name__", "")
    except ValueError:  # beyond the outermost frame
        return False
    return module.split(".")[0] == "xplain" or module == "torch.utils._contextlib"  # decorators of PyTorch


@dataclass(frozen=True)
class Failure:
    """An input that failed and its error. Commands report the failure and continue with the next input."""

    name: str
    error: XplainError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a Python, NumPy or PyTorch exception is an out-of-memory error.

    The function compares names and messages, because this module must not import torch.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def device_error(error: BaseException) -> DeviceError | None:
    """Return a DeviceError if the exception reports a failed device, too little memory or tensors on several devices, otherwise None."""
    first = first_line(error)
    if is_out_of_memory(error):
        return DeviceError(
            f"out of memory: {first}", "reduce --batch-size or the number of images, or use another --device"
        )
    is_device_text = isinstance(error, RuntimeError) and any(text in str(error) for text in DEVICE_ERROR_TEXTS)
    if is_device_text or type(error).__name__ == "AcceleratorError":
        return DeviceError(f"device error: {first}", "check the device, then run the same command again")
    if isinstance(error, RuntimeError) and any(text in str(error) for text in MIXED_DEVICES_TEXTS):
        hint = "let the forward pass of the model create tensors on the device of its input, or use --device cpu"
        return DeviceError(f"device error: {first}", hint)
    return None


@contextmanager
def convert_device_errors(memory_hint: str = "") -> Iterator[None]:
    """Raise a DeviceError in place of an exception inside the block that reports one, see ``device_error``.

    memory_hint: what to do if the memory is exhausted; defaults to the hint of ``device_error``.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = None if isinstance(error, XplainError) else device_error(error)
        if known is None:
            raise
        if memory_hint and is_out_of_memory(error):
            known = DeviceError(known.message, memory_hint)
        raise known from None


def system_error(error: BaseException) -> InputError | None:
    """Return an InputError if the exception reports a full or failing disk or too many open files, otherwise None.

    A file name that the encoding of the file system cannot express is reported too.
    """
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding():
        message = f"the file name {error.object!a} cannot be encoded in {error.encoding}"
        return InputError(message, "use a UTF-8 locale, or set PYTHONUTF8=1")
    if not isinstance(error, OSError) or error.errno not in SYSTEM_ERROR_NUMBERS:
        return None
    message = f"{error.strerror}: {error.filename!r}" if error.filename else str(error.strerror)
    return InputError(message, "fix the problem, then run the same command again")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a hint for an unknown name: up to three similar names, or ``otherwise`` if no name is similar.

    Of equally similar names, those with a longer common start come first, then the first ones of ``known``.
    """
    lowered = {candidate.lower(): candidate for candidate in known}
    order = {candidate: place for place, candidate in enumerate(lowered)}
    similar = get_close_matches(name.lower(), lowered, n=max(len(lowered), 1), cutoff=0.6)

    def rank(match: str) -> tuple[float, int, int]:
        similarity = SequenceMatcher(None, match, name.lower()).ratio()
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(match, name.lower(), strict=False)))
        return -similarity, -start, order[match]

    matches = [lowered[match] for match in sorted(similar, key=rank)[:3]]
    return f"did you mean {' or '.join(map(repr, matches))}?" if matches else otherwise
