"""Explain and evaluate random small networks: ``python -m tests.tools.stress --count 10000``.

Each number stands for a network, a method and a metric. xplain must either refuse the case with a one-line error, or return a map
and a value that agree with the evaluation of each image by itself. Everything else is a fault, and the script exits with code 1.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import get_context

import torch

from tests.helpers.case_checks import FaultError, describe_case, run_case


def try_case(seed: int) -> tuple[int, str]:
    """Return the number and the outcome of a case, ``FAULT: ...`` for a fault."""
    torch.set_num_threads(1)
    try:
        return seed, run_case(seed)
    except FaultError as error:
        return seed, f"FAULT: {error} [{describe_case(seed)}]"
    except Exception as error:
        return seed, f"FAULT: {type(error).__name__}: {error} [{describe_case(seed)}]"


def run_cases(seeds: Sequence[int], processes: int) -> Iterator[tuple[int, str]]:
    """Yield the number and the outcome of each case."""
    if processes == 1:
        yield from map(try_case, seeds)
        return
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(try_case, seeds, chunksize=20)


def main(arguments: Sequence[str]) -> int:
    """Run the cases, print every fault and the number of each outcome, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.stress", description=__doc__)
    parser.add_argument("--count", type=int, default=10000, help="number of cases (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--refusals", action="store_true", help="print the refusals too")
    options = parser.parse_args(arguments)
    outcomes: Counter[str] = Counter()
    for seed, outcome in run_cases(range(options.first, options.first + options.count), options.processes):
        kind = outcome.partition(":")[0]
        outcomes[kind] += 1
        if kind == "FAULT" or (options.refusals and kind.startswith("refused")):
            print(seed, outcome if kind == "FAULT" else f"{outcome} [{describe_case(seed)}]", flush=True)
    print(*(f"{count} {kind}" for kind, count in sorted(outcomes.items())), sep=", ")
    return int(outcomes["FAULT"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
