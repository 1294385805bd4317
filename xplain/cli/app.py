"""The ``xplain`` command: subcommands, exit codes, and handling of errors and signals."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import typer

from xplain.cli._console import discard_output, log, log_to_stderr
from xplain.cli._help import ENVIRONMENT, PanelCommand
from xplain.cli._options import Version
from xplain.cli._results import RESULTS
from xplain.cli._values import refuse_parsed_value
from xplain.cli.bench import bench
from xplain.cli.cite import cite
from xplain.cli.compare import compare
from xplain.cli.evaluate import evaluate
from xplain.cli.explain import explain
from xplain.cli.list import list_things
from xplain.core.allocator import retain_freed_memory
from xplain.core.errors import ExitCode, XplainError, device_error, system_error
from xplain.core.option_words import option_names

EPILOG = f"""\b
Exit codes:
  0  success
  1  internal error (a bug in xplain)
  2  usage error
  3  invalid or unreadable input
  4  device error or out of memory
  5  partial success: some items failed or have undefined values
  130  interrupted

\b
{ENVIRONMENT}"""

app = typer.Typer(
    name="xplain",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("explain", cls=PanelCommand, epilog=EPILOG)(explain)
app.command("evaluate", cls=PanelCommand, epilog=EPILOG)(evaluate)
app.command("compare", cls=PanelCommand, epilog=EPILOG)(compare)
app.command("bench", cls=PanelCommand, epilog=EPILOG)(bench)
app.command("list", cls=PanelCommand, epilog=EPILOG)(list_things)
app.command("cite", cls=PanelCommand)(cite)


@app.callback()
def main(version: Version = False) -> None:
    """Explain image classifiers and evaluate the explanations.

    \b
    Examples:
      xplain explain cat.jpg
      xplain evaluate photos --metric deletion
      xplain compare cat.jpg -a agi -a ig -a neflag
      xplain list methods

    Run "xplain COMMAND --help" for the options and examples of a command. Run "xplain --install-completion" to enable shell
    completion.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code. Errors that the user can fix are printed to stderr as one line."""
    RESULTS.start_part()
    with _interruptible() as signals, log_to_stderr(), option_names():
        try:
            with retain_freed_memory():
                code = app(args=list(arguments), prog_name="xplain", standalone_mode=False)
            sys.stdout.flush()
            if code == ExitCode.INTERRUPTED:  # Typer converts Ctrl-C to this exit code
                raise KeyboardInterrupt
            return int(code) if isinstance(code, int) else ExitCode.OK
        except XplainError as error:
            log.error("%s", error)
            return error.exit_code
        except typer.TyperException as error:
            return _report_usage_error(error)
        except (KeyboardInterrupt, typer.Abort):
            return _report_interruption(arguments)
        except BrokenPipeError:
            discard_output()
            return ExitCode.OK
        except SystemExit as error:
            if not isinstance(error.__context__, BrokenPipeError):  # Typer converts BrokenPipeError to SystemExit
                raise
            discard_output()
            return ExitCode.OK
        except Exception as error:
            return _report_interruption(arguments) if signals.arrived else _report_failure(error)


@dataclass
class _Signals:
    """Record of whether a signal arrived, because interrupted code may raise an error other than KeyboardInterrupt."""

    arrived: bool = False

    def interrupt(self, number: int, frame: object) -> None:
        """Handle a signal by raising KeyboardInterrupt."""
        self.arrived = True
        raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Signals]:
    """Convert SIGINT and SIGTERM to KeyboardInterrupt inside the block and record whether one arrived."""
    signals, handlers = _Signals(), {}
    with suppress(ValueError):  # not in the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, signals.interrupt)
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _report_interruption(arguments: Sequence[str]) -> int:
    command = shlex.join(["xplain", *arguments])
    log.info("interrupted; %s. To resume, run: %s", RESULTS.describe(), command)
    return ExitCode.INTERRUPTED


def _report_failure(error: Exception) -> int:
    """Print a device or system error as one line. Print any other exception with its traceback, because it is a bug."""
    known = device_error(error) or system_error(error)
    if known is None:
        import traceback

        traceback.print_exc()
        return ExitCode.BUG
    log.error("%s", known)
    return known.exit_code


def _report_usage_error(error: typer.TyperException) -> int:
    """Print an option-parsing error as one line that refers to the help page."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(error.format_message() + "\n")
        return ExitCode.USAGE_ERROR
    refused = refuse_parsed_value(error)
    if refused is not None:
        log.error("%s", refused)
        return ExitCode.USAGE_ERROR
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "xplain"
    message = " ".join(error.format_message().split()).rstrip(".").replace(". Did you", "; did you")
    hint = "" if message.endswith("?") else f"; see {command} --help"
    log.error("%s", f"{message[:1].lower()}{message[1:]}{hint}")
    return ExitCode.USAGE_ERROR
