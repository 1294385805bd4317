"""The ``xplain`` command: its subcommands, and every way out of it."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from xplain.cli._console import discard_output, say, show_notes
from xplain.cli._options import Version
from xplain.cli.bench import bench
from xplain.cli.cite import cite
from xplain.cli.compare import compare
from xplain.cli.evaluate import evaluate
from xplain.cli.explain import explain
from xplain.cli.list import list_things
from xplain.core.allocator import retain_freed_memory
from xplain.core.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    XplainError,
    device_error,
    system_error,
)

EXITS = """\b
Exit codes:
  0  done
  1  a bug
  2  wrong use
  3  an input cannot be used
  4  device or memory
  5  finished, but some items failed or were undefined
  130  interrupted

Every option can also be set in the environment, by the name in brackets, or in a TOML file (--config);
a flag wins over the environment, the environment over the file."""

app = typer.Typer(
    name="xplain",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("explain", epilog=EXITS)(explain)
app.command("evaluate", epilog=EXITS)(evaluate)
app.command("compare", epilog=EXITS)(compare)
app.command("bench", epilog=EXITS)(bench)
app.command("list")(list_things)
app.command("cite")(cite)


@app.callback()
def main(version: Version = False) -> None:
    """Explain image classifications, and measure how far the explanations can be trusted.

    \b
    Examples:
      xplain explain cat.jpg
      xplain evaluate photos --metric deletion
      xplain compare cat.jpg -a agi -a ig -a neflag
      xplain list methods

    xplain COMMAND --help says more, with examples. xplain --install-completion teaches your shell the commands,
    options, methods, metrics and models.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code. Every error that a user can solve is one line on stderr."""
    with _Interrupts() as interrupts:
        try:
            with retain_freed_memory(), show_notes():
                code = app(args=list(arguments), prog_name="xplain", standalone_mode=False)
            sys.stdout.flush()
            if code == EXIT_INTERRUPTED:  # the option parser turns Ctrl-C into this
                raise KeyboardInterrupt
            return code if isinstance(code, int) else EXIT_DONE
        except XplainError as error:
            say(f"error: {error}")
            return error.exit_code
        except typer.TyperException as error:
            return _usage(error)
        except (KeyboardInterrupt, typer.Abort):
            return _interrupted(arguments)
        except BrokenPipeError:
            discard_output()
            return EXIT_DONE
        except SystemExit as error:
            if not isinstance(error.__context__, BrokenPipeError):  # which the option parser turns into this
                raise
            discard_output()
            return EXIT_DONE
        except Exception as error:
            return _interrupted(arguments) if interrupts.seen else _unforeseen(error)


class _Interrupts:
    """Within, SIGTERM is a KeyboardInterrupt as Ctrl-C is. seen: one came; what it hits may make another error of it."""

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interrupts:
        with suppress(ValueError):  # not in the main thread
            for each in (signal.SIGINT, signal.SIGTERM):
                self._before[each] = signal.signal(each, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _raise(self, number: int, frame: object) -> None:
        self.seen = True
        raise KeyboardInterrupt


def _interrupted(arguments: Sequence[str]) -> int:
    say(f"interrupted; what is written is whole, and this goes on from there: {shlex.join(['xplain', *arguments])}")
    return EXIT_INTERRUPTED


def _unforeseen(error: Exception) -> int:
    """What the device or the system could not do is one line; everything else is a bug, with its traceback."""
    known = device_error(error) or system_error(error)
    if known is None:
        import traceback

        traceback.print_exc()
        return EXIT_BUG
    say(f"error: {known}")
    return known.exit_code


def _usage(error: typer.TyperException) -> int:
    """An error of the option parser on one line, with the way out."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(error.format_message() + "\n")
        return EXIT_USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "xplain"
    message = " ".join(error.format_message().split()).rstrip(".")
    say(f"error: {message[:1].lower()}{message[1:]}; see {command} --help")
    return EXIT_USAGE
