"""What is shown while a command works: bars on a terminal, nothing anywhere else."""

from __future__ import annotations

import io
import re

import pytest

from xplain.cli._console import show_counter, show_progress


class Screen(io.StringIO):
    """A terminal, or not, that remembers what was written."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def lines(self) -> list[str]:
        """What was to be read, line by line as it was drawn."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.fixture
def screen(monkeypatch):
    def show(terminal: bool) -> Screen:
        made = Screen(terminal)
        monkeypatch.setattr("sys.stderr", made)
        for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
            monkeypatch.setenv(name, value)
        for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        return made

    return show


def test_rows_that_are_done_fill_the_bar(screen):
    made = screen(True)
    with show_progress(True) as progress:
        progress.plan(8)
        progress.advance(2)
        progress.advance(4)
    assert any("75%" in line for line in made.lines)


def test_a_counter_says_how_many_of_how_many(screen):
    made = screen(True)
    with show_counter(True, "epochs") as advance:
        advance(3, 4)
    assert any("75%" in line and "3 of 4 epochs" in line for line in made.lines)


@pytest.mark.parametrize(("terminal", "wanted"), [(True, False), (False, True)])
def test_nothing_is_drawn_off_a_terminal_or_where_it_is_not_wanted(screen, terminal, wanted):
    made = screen(terminal)
    with show_progress(wanted) as progress, show_counter(wanted) as advance:
        progress.plan(8)
        progress.advance(8)
        advance(1, 2)
    assert made.getvalue() == ""
