"""Read the options of a command from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.text_files import decode_text

PUBLISHED = "published"  # the TOML table with the values of a paper
PUBLISHED_COMMANDS = ("evaluate", "bench")  # which print them next to their own


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises InputError if it cannot be read."""
    try:
        return tomllib.loads(decode_text(path.read_bytes()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read the configuration file {str(path)!r}: {reason}", "check the path") from None
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise InputError(
            f"cannot read the configuration file {str(path)!r}: {error}", "check that it is valid TOML"
        ) from None


def read_config_file(path: Path, command: str, options: Collection[str], commands: Collection[str]) -> dict[str, Any]:
    """Return the option values of ``command`` in a TOML file.

    Options at the top level apply to every command and must be options of ``command``; a table named after a command takes
    precedence. evaluate and bench also accept a table of published values, which ``xplain.reports.published`` reads.
    Raises InputError if the file cannot be read, UsageError for a name that is not an option of ``command`` and for a table
    that is not named after a command.
    """
    content = read_toml(path)
    if command in PUBLISHED_COMMANDS:
        content.pop(PUBLISHED, None)
    tables = {
        key: value
        for key, value in content.items()
        if isinstance(value, Mapping) and key.replace("-", "_") not in options
    }
    for name in tables:
        if name not in commands:
            hint = did_you_mean(name, commands, "use the name of a command as the table name")
            if name == PUBLISHED:
                hint = f"use it only with {' and '.join(PUBLISHED_COMMANDS)}"
            raise UsageError(f"unknown table [{name}] in {path}", hint)
    merged = {key: value for key, value in content.items() if key not in tables} | dict(tables.get(command, {}))
    values = {key.replace("-", "_"): value for key, value in merged.items()}
    for name in values:
        if name not in options:
            known = [option.replace("_", "-") for option in options]
            raise UsageError(f"unknown option {name!r} in {path}", did_you_mean(name, known, "see --help"))
    return values
