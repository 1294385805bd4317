"""Run commands in forked processes, which start fast because all modules are loaded."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

LIMIT = 120  # seconds; a command that takes longer is killed by SIGALRM, so that no test waits for ever


def start(
    arguments: Sequence[str],
    out: int | None = None,
    err: Path | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Start ``xplain`` with arguments in a forked process and return its process id.

    out: file descriptor for stdout; defaults to /dev/null. err: file for stderr; defaults to /dev/null.
    prepare: called in the process before the command.
    """
    import torch

    from xplain.cli.app import run

    assert torch.get_num_threads() == 1  # a forked process waits for ever for the OpenMP threads of its parent
    signals = signal.SIGINT, signal.SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until the child handles them as ``python -m xplain`` does
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null if out is None else out, 1)
            os.dup2(null if err is None else os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            prepare()
            code = run(arguments)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    return child


def is_running(child: int) -> bool:
    """Return whether a process still runs. A process that has ended is removed and cannot be asked again."""
    return os.waitpid(child, os.WNOHANG) == (0, 0)


def wait(child: int) -> int:
    """Wait for a process and return its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
