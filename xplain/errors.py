"""What can go wrong, and the exit code that says so.

An error names the value, the rule it broke and the way out, in one line.
"""

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


class ModelNote(UserWarning):
    """Something about a model that its user should know: what it returns, what it was given."""


@dataclass(frozen=True)
class Failed:
    """One input of many that could not be used, and why."""

    name: str
    error: XplainError


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The way out of an unknown name: its nearest relatives, or ``otherwise`` when there are none."""
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(map(repr, matches))}?" if matches else otherwise
