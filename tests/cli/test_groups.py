"""Tests of xplain.cli._groups: option groups on a small command of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from xplain.cli._groups import option, with_groups
from xplain.core.errors import UsageError
from xplain.core.options import Option


def parse_pair(text: str) -> tuple[int, int]:
    """Parse ``A,B``."""
    try:
        first, second = map(int, text.split(","))
    except ValueError:
        raise UsageError(f"cannot parse {text!r}", "write A,B") from None
    return first, second


@dataclass(frozen=True)
class Numbers:
    """A group with bounds, a parser, a short name, and a field without an option."""

    pair: Annotated[tuple[int, int], Option("--pair -p", "Two numbers.", parse_pair, "1,2")] = (1, 2)
    share: Annotated[float, Option("--share", "A share.", low=0, high=1)] = 0.5
    side: Annotated[int | None, Option("--side-length", "A side.", low=1)] = None
    origin: str = "none"


@dataclass(frozen=True)
class Switches:
    """A group whose options are typer's own."""

    verbose: Annotated[bool, option("--verbose", help="Print more.")] = False


def run_with(arguments: list[str], environment: dict[str, str] | None = None, defaults: dict | None = None):
    """Run the command; return what it received, or the error of the parser or the group."""
    received = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command(context_settings={"default_map": defaults})
    @with_groups
    def command(
        context: typer.Context,
        name: Annotated[str, typer.Argument()],
        numbers: Numbers = Numbers(),
        count: Annotated[int, option("--count", help="A count.")] = 3,
        switches: Switches = Switches(),
    ) -> int:
        """Take a name and two groups."""
        received.append((name, numbers, count, switches))
        return 0

    result = CliRunner().invoke(app, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return received[0] if received else result.output


def test_groups_default_to_their_fields():
    assert run_with(["x"]) == ("x", Numbers(), 3, Switches())


def test_groups_take_values_of_flags():
    arguments = ["x", "--pair", "3,4", "--share", "0.25", "--side-length", "8", "--verbose", "--count", "7"]
    assert run_with(arguments) == ("x", Numbers((3, 4), 0.25, 8), 7, Switches(True))


def test_groups_accept_short_names():
    assert run_with(["x", "-p", "5,6"])[1] == Numbers((5, 6))


def test_groups_keep_fields_without_option():
    assert run_with(["x", "-p", "5,6"])[1].origin == "none"
    assert "No such option" in run_with(["x", "--origin", "y"])


@pytest.mark.parametrize("text", ["1", "a,b", ""])
def test_groups_raise_error_of_parser(text):
    with pytest.raises(UsageError) as error:
        run_with(["x", "--pair", text])
    assert str(error.value) == f"cannot parse {text!r}; write A,B"


@pytest.mark.parametrize(
    ("name", "value"), [("--share", "1.5"), ("--share", "-0.1"), ("--side-length", "0"), ("--side-length", "1.5")]
)
def test_groups_check_bounds_and_types(name, value):
    assert f"Invalid value for '{name}'" in run_with(["x", name, value])


def test_groups_read_environment():
    environment = {"XPLAIN_PAIR": "7,8", "XPLAIN_SIDE_LENGTH": "4", "XPLAIN_COUNT": "9", "XPLAIN_VERBOSE": "1"}
    assert run_with(["x"], environment) == ("x", Numbers((7, 8), 0.5, 4), 9, Switches(True))


def test_groups_read_default_map():
    """The configuration file is read into it; a flag takes precedence."""
    defaults = {"pair": "7,8", "share": 0.75}
    assert run_with(["x", "--share", "0"], defaults=defaults)[1] == Numbers((7, 8), 0.0)


def test_groups_show_help_and_defaults():
    text = " ".join(run_with(["--help"]).split())
    for part in (
        "-p, --pair ",
        " Two numbers. [env var: XPLAIN_PAIR; default: 1,2]",
        " A share. [env var: XPLAIN_SHARE; default: 0.5; 0<=x<=1]",
        " A side. [env var: XPLAIN_SIDE_LENGTH; x>=1]",
    ):
        assert part in text
    assert "Take a name and two groups." in text
    assert (
        text.index("--side-length") < text.index("--count") < text.index("--verbose")
    )  # in the order of the parameters
