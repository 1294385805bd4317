"""The ``xplain`` command: its subcommands, its exit codes, and how errors and signals end it."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import typer

from xplain.cli._console import discard_output, log, log_to_stderr
from xplain.cli._options import Version
from xplain.cli._values import refuse_parsed_value
from xplain.cli.bench import bench
from xplain.cli.cite import cite
from xplain.cli.compare import compare
from xplain.cli.evaluate import evaluate
from xplain.cli.explain import explain
from xplain.cli.list import list_things
from xplain.core.allocator import retain_freed_memory
from xplain.core.errors import ExitCode, XplainError, device_error, system_error

EPILOG = """\b
Exit codes:
  0  done
  1  a bug in xplain
  2  wrong use
  3  an input cannot be used
  4  device or memory error
  5  finished, but some items failed or were undefined
  130  interrupted

Each option can also be set by the environment variable in brackets, or in a TOML file (--config).
Precedence: command line, environment, file."""

app = typer.Typer(
    name="xplain",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("explain", epilog=EPILOG)(explain)
app.command("evaluate", epilog=EPILOG)(evaluate)
app.command("compare", epilog=EPILOG)(compare)
app.command("bench", epilog=EPILOG)(bench)
app.command("list")(list_things)
app.command("cite")(cite)


@app.callback()
def main(version: Version = False) -> None:
    """Explain image classifications, and measure how reliable the explanations are.

    \b
    Examples:
      xplain explain cat.jpg
      xplain evaluate photos --metric deletion
      xplain compare cat.jpg -a agi -a ig -a neflag
      xplain list methods

    Run xplain COMMAND --help for the options and examples of a command, and xplain --install-completion to
    install shell completion of commands, options, methods, metrics and models.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code. An error that the user can solve is printed as one line on stderr."""
    with _interruptible() as signals, log_to_stderr():
        try:
            with retain_freed_memory():
                code = app(args=list(arguments), prog_name="xplain", standalone_mode=False)
            sys.stdout.flush()
            if code == ExitCode.INTERRUPTED:  # the option parser turns Ctrl-C into this
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
            if not isinstance(error.__context__, BrokenPipeError):  # which the option parser turns into this
                raise
            discard_output()
            return ExitCode.OK
        except Exception as error:
            return _report_interruption(arguments) if signals.arrived else _report_failure(error)


@dataclass
class _Signals:
    """arrived: whether a signal came; what it interrupts may raise another error than KeyboardInterrupt."""

    arrived: bool = False

    def interrupt(self, number: int, frame: object) -> None:
        """Raise KeyboardInterrupt; a signal handler."""
        self.arrived = True
        raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Signals]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt while the block runs, and remember that one arrived."""
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
    log.info("interrupted; finished results are complete, run the same command to resume: %s", command)
    return ExitCode.INTERRUPTED


def _report_failure(error: Exception) -> int:
    """Print an error of the device or the system as one line, and any other as a traceback: it is a bug."""
    known = device_error(error) or system_error(error)
    if known is None:
        import traceback

        traceback.print_exc()
        return ExitCode.BUG
    log.error("%s", known)
    return known.exit_code


def _report_usage_error(error: typer.TyperException) -> int:
    """Print an error of the option parser as one line that names the help page."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(error.format_message() + "\n")
        return ExitCode.USAGE_ERROR
    refused = refuse_parsed_value(error)
    if refused is not None:
        log.error("%s", refused)
        return ExitCode.USAGE_ERROR
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "xplain"
    message = " ".join(error.format_message().split()).rstrip(".")
    log.error("%s", f"{message[:1].lower()}{message[1:]}; see {command} --help")
    return ExitCode.USAGE_ERROR
