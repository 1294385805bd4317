"""What can go wrong, and the exit code that says so.

An error names the value, the rule it broke and the way out, in one line.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

EXIT_DONE, EXIT_BUG, EXIT_USAGE, EXIT_INPUT, EXIT_DEVICE, EXIT_PARTIAL, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class XplainError(Exception):
    """A problem that the user can solve. ``str(error)`` is one line: what is wrong, then the way out."""

    exit_code = EXIT_BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(" ".join(f"{message}; {hint}".split()) if hint else " ".join(message.split()))


class UsageError(XplainError):
    """Wrong use: an unknown name, a parameter out of range, options that exclude one another."""

    exit_code = EXIT_USAGE


class InputError(XplainError):
    """An image, weights, labels or a run directory cannot be used."""

    exit_code = EXIT_INPUT


class DeviceError(XplainError):
    """The device is not there, or its memory is too small."""

    exit_code = EXIT_DEVICE


DEVICE_SIGNS = (
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "CUBLAS_STATUS",
    "CUSOLVER_STATUS",
    "HIP error",
    "MPS backend",
)
MEMORY_SIGNS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, numpy or torch says that memory is too small. (By names, so that torch is not imported.)"""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    named = named or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return named or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS))


def device_error(error: BaseException) -> DeviceError | None:
    """What an exception says of the device: its memory is too small, or it has failed; None where it is about something else."""
    first = first_line(error)
    if is_out_of_memory(error):
        return DeviceError(f"out of memory: {first}", "give a smaller --batch-size, fewer images or another --device")
    failed = isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS)
    if failed or type(error).__name__ == "AcceleratorError":
        return DeviceError(f"the device failed: {first}", "check it; the same command goes on from what is written")
    return None


SYSTEM_LIMITS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


def system_error(error: BaseException) -> InputError | None:
    """What an exception says of the system: a full or failing disk, too many open files; None where it is about something else."""
    if not isinstance(error, OSError) or error.errno not in SYSTEM_LIMITS:
        return None
    return InputError(
        f"{error.strerror}: {error.filename!r}" if error.filename else str(error.strerror), "make room, and go on"
    )


class StoppedError(XplainError):
    """The user stopped what keeps nothing of itself."""

    exit_code = EXIT_INTERRUPTED


class ModelNote(UserWarning):
    """Something about a model that its user should know: what it returns, what it was given."""


def first_line(error: BaseException) -> str:
    """The first line of another program's error, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class Failure:
    """One input of many that could not be used, and why."""

    name: str
    error: XplainError


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The way out of an unknown name: its nearest relatives, or ``otherwise`` when there are none."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(map(repr, matches))}?" if matches else otherwise
