"""Standard output and standard error of commands: progress bars, messages and warnings."""

from __future__ import annotations

import io
import logging
import re
import warnings

import pytest

from xplain.cli._console import log, log_to_stderr, silence_notes
from xplain.cli._progress import show_progress
from xplain.cli._results import ResultLog
from xplain.core.current_image import processing_image
from xplain.core.errors import ModelNote


class Screen(io.StringIO):
    """A stream that may be a terminal, and that keeps what was written."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def lines(self) -> list[str]:
        """The lines without escape sequences, in the order in which they were drawn."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.fixture
def make_screen(monkeypatch):
    """Return a function that replaces stderr by a Screen."""

    def make(terminal: bool) -> Screen:
        screen = Screen(terminal)
        monkeypatch.setattr("sys.stderr", screen)
        for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
            monkeypatch.setenv(name, value)
        for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        return screen

    return make


def test_show_progress_prints_share_and_count(make_screen):
    screen = make_screen(True)
    with show_progress(True, "rows") as on_progress:
        on_progress(0, 8)
        on_progress(2, 8)
        on_progress(6, 8)
    assert any("75%" in line and "6 of 8 rows" in line for line in screen.lines)


def test_show_progress_counts_results(make_screen):
    screen, results = make_screen(True), ResultLog()
    with show_progress(True, "explanations", results) as on_progress:
        results(0, 3)
        on_progress(0, 600)
        results(2, 3)
        on_progress(450, 600)
    assert any("75%" in line and "2 of 3 explanations" in line for line in screen.lines)


def test_show_progress_leaves_a_piped_stdout_alone(make_screen, monkeypatch):
    screen, pipe = make_screen(True), Screen(False)
    monkeypatch.setattr("sys.stdout", pipe)
    with show_progress(True, "rows") as on_progress:
        on_progress(1, 8)
        print("a result")
    assert pipe.getvalue() == "a result\n"
    assert "a result" not in screen.getvalue()


def test_show_progress_accepts_total_of_zero(make_screen):
    screen = make_screen(True)
    with show_progress(True, "epochs") as on_progress:
        on_progress(0, 0)
    assert any("0 of 0 epochs" in line for line in screen.lines)


@pytest.mark.parametrize(("terminal", "wanted"), [(True, False), (False, True)])
def test_show_progress_needs_terminal_and_wish(make_screen, terminal, wanted):
    screen = make_screen(terminal)
    with show_progress(wanted, "rows") as on_progress:
        on_progress(0, 8)
        on_progress(8, 8)
    assert screen.getvalue() == ""


def test_log_prints_one_line_per_message(capsys):
    with log_to_stderr():
        log.info("3 of %d", 4)
        log.warning("two\nlines")
        log.error("escape \x1b[31m")
    assert capsys.readouterr().err.splitlines() == [
        "xplain: 3 of 4",
        "xplain: warning: two\\nlines",
        "xplain: error: escape \\x1b[31m",
    ]


def test_log_shows_notes_and_library_warnings(capsys):
    with log_to_stderr():
        warnings.warn("two channels", ModelNote, stacklevel=1)
        warnings.warn("use another\n  function", FutureWarning, stacklevel=1)
        logging.getLogger("timm.models").warning("unexpected keys")
    assert capsys.readouterr().err.splitlines() == [
        "xplain: note: two channels",
        "xplain: warning: use another function",
        "xplain: warning: unexpected keys",
    ]


def test_log_names_image_of_library_messages(capsys):
    with log_to_stderr():
        for name in ("a.png", "b.png"):
            with processing_image(name):
                for _ in range(2):
                    warnings.warn_explicit("odd\ntag", UserWarning, "x.py", 1, module="PIL.Image")
                    logging.getLogger("PIL.TiffImagePlugin").error("too many samples")
                log.info("note")
    expected = [
        line
        for name in ("a", "b")
        for line in (
            f"xplain: warning: '{name}.png': odd tag",
            f"xplain: warning: '{name}.png': too many samples",
            "xplain: note",
        )
    ]
    assert capsys.readouterr().err.splitlines() == expected


def test_log_shows_only_errors_when_silenced(capsys):
    with log_to_stderr():
        silence_notes()
        warnings.warn("two channels", ModelNote, stacklevel=1)
        warnings.warn("use another function", FutureWarning, stacklevel=1)
        logging.getLogger("PIL.TiffImagePlugin").error("too many samples")
        log.info("3 of 4")
        log.warning("empty map")
        log.error("no such file")
    assert capsys.readouterr().err == "xplain: error: no such file\n"


def test_log_restores_warnings_and_levels(capsys):
    showwarning, formatwarning = warnings.showwarning, warnings.formatwarning
    handlers, level = list(logging.getLogger().handlers), log.level
    with log_to_stderr():
        silence_notes()
    assert (warnings.showwarning, warnings.formatwarning) == (showwarning, formatwarning)
    assert (logging.getLogger().handlers, log.level) == (handlers, level)
    with log_to_stderr():
        warnings.warn("shown again", ModelNote, stacklevel=1)
    assert capsys.readouterr().err == "xplain: note: shown again\n"


def test_repeated_note_is_printed_once(capsys):
    for _ in range(2):
        with log_to_stderr():
            for line, text in enumerate(("a", "a", "b")):
                warnings.warn_explicit(text, ModelNote, "f.py", line)
    assert capsys.readouterr().err == "xplain: note: a\nxplain: note: b\n" * 2
