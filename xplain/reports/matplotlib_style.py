"""Import matplotlib, and draw with its default settings whatever the user's ``matplotlibrc`` or MPLBACKEND says."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from xplain.core.errors import InputError, first_line

BACKEND = "MPLBACKEND"  # the environment variable that matplotlib reads when it is imported
USER_SETTINGS = ("backend", "interactive", "toolbar", "timezone", "date.epoch")  # have no effect on our figures


def import_matplotlib() -> Any:
    """Return matplotlib, imported without the backend that the environment names, which may not exist.

    Raises InputError if matplotlib cannot read the user's settings.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    logger, backend = logging.getLogger("matplotlib"), os.environ.pop(BACKEND, None)
    level = logger.level
    logger.setLevel(logging.ERROR)  # hides warnings about lines of matplotlibrc, which are not used
    try:
        import matplotlib
    except (OSError, ValueError, KeyError) as error:
        message = f"matplotlib cannot read its settings: {first_line(error)}"
        raise InputError(message, "correct or delete the file matplotlibrc") from None
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ[BACKEND] = backend
    with suppress(ValueError):  # a backend that this version does not have
        if backend:
            matplotlib.rcParams["backend"] = backend
    return matplotlib


@contextmanager
def figure_style(settings: Mapping[str, Any]) -> Iterator[None]:
    """Draw with matplotlib's defaults and these settings, without warnings about glyphs that the font lacks."""
    matplotlib = import_matplotlib()
    defaults = {
        key: value
        for key, value in dict.items(matplotlib.rcParamsDefault)
        if not key.startswith((*USER_SETTINGS, "webagg.", "tk.", "figure.raise_window", "savefig.directory"))
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        with matplotlib.rc_context(defaults | dict(settings)):
            yield
