"""Programs timed in turn, round by round, so that what slows the machine down for a while slows all of them down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from xplain.core.allocator import release_memory
from xplain.core.errors import XplainError, device_error, first_line
from xplain.core.types import Cost
from xplain.pipelines.meter import peak_memory, time_of


@dataclass(frozen=True)
class Account:
    """What one run did: rows through the model, and the most rows of one call, as far as the program says so."""

    cost: Cost = field(default_factory=Cost)
    rows_a_call: int | None = None


@dataclass(frozen=True, eq=False)
class Contender:
    """A program at work on a number of images.

    memory: how freed memory is handled while it runs. warm: what it does in each round before it is timed, so that memory which
    the program before it gave back is there again.
    """

    program: str
    images: int
    run: Callable[[], Account]
    memory: Callable[[], AbstractContextManager[None]]
    rows: int | None = None  # asked for a call
    warm: Callable[[], object] = lambda: None


@dataclass(eq=False)
class Result:
    """Seconds of each round, the account and memory of the run before them; or why there are none.

    failure: the same where it is an error that a user can solve.
    """

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    memory: int | None = None
    error: str = ""
    failure: XplainError | None = None


def race(contenders: Sequence[Contender], rounds: int, device: torch.device) -> list[Result]:
    """Run each once to warm up, which measures its memory, and then all in turn, ``rounds`` times.

    A program that cannot do it is left out, with its error's first line.
    """
    results = [_warm_up(each, device) for each in contenders]
    for _ in range(rounds):
        for result in results:
            if not result.error:
                with result.contender.memory():
                    result.contender.warm()
                    result.seconds.append(time_of(result.contender.run, device))
    return results


def _warm_up(contender: Contender, device: torch.device) -> Result:
    result = Result(contender)

    def run() -> None:
        result.account = contender.run()

    release_memory()
    try:
        with contender.memory():
            result.memory = peak_memory(run, device)
    except Exception as error:  # other programs raise what they like
        result.error = first_line(error)
        result.failure = error if isinstance(error, XplainError) else device_error(error)
    return result
