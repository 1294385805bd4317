"""Measure forward passes beside busy neighbours: ``python -m tests.tools.busy_machine [--neighbours 0 1 3]``.

Starts processes that compute without pause, and measures the forward rows per second of a model in processes that differ in how OpenMP
threads wait: as torch does by default, as xplain sets it, and passively. The processes run by turns, a second each, so that a change of the
machine's load concerns all of them. Prints medians, and the ratio to the default.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from xplain.core.threads import SPIN_COUNT, WAITING_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOUR = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "xplain": {"GOMP_SPINCOUNT": SPIN_COUNT},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
WORKER = """
import sys, time, torch, xplain
from xplain.oracle import Oracle
from xplain.oracle.runtime import inference_session
classifier = xplain.load_classifier(sys.argv[1], device="cpu")
images = torch.rand(int(sys.argv[2]), 3, *classifier.size)
with inference_session(classifier):
    Oracle(classifier).logits(images)
    print("ready", flush=True)
    for _ in sys.stdin:
        start, calls = time.perf_counter(), 0
        while calls < 2 or time.perf_counter() - start < 1:
            Oracle(classifier).logits(images)
            calls += 1
        print(calls * len(images) / (time.perf_counter() - start), flush=True)
"""


@dataclass
class Worker:
    """A process that measures on request."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, model: str, rows: int, variables: dict[str, str]) -> Worker:
        """Start the process and wait until it is ready."""
        environment = {name: value for name, value in os.environ.items() if name not in WAITING_VARIABLES} | variables
        command = [sys.executable, "-c", WORKER, model, str(rows)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        worker = cls(process)
        assert worker._read() == "ready"
        return worker

    def measure(self) -> float:
        """Return the rows per second over about a second."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neighbours", type=int, nargs="*", default=[0, 1, 3])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--model", default="efficientnet-lite0")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.model}, {options.rows} rows per call")
    workers = {name: Worker.start(options.model, options.rows, variables) for name, variables in POLICIES.items()}
    neighbours: list[subprocess.Popen[bytes]] = []
    try:
        for count in sorted(options.neighbours):
            while len(neighbours) < count:
                neighbours.append(subprocess.Popen([sys.executable, "-c", NEIGHBOUR]))
            rates: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(options.rounds):
                for name, worker in workers.items():
                    rates[name].append(worker.measure())
            medians = {name: statistics.median(values) for name, values in rates.items()}
            shown = ", ".join(f"{name} {rate:.0f} ({rate / medians['default']:.2f})" for name, rate in medians.items())
            print(f"{count} neighbours: rows/s {shown}", flush=True)
    finally:
        for process in [*neighbours, *(worker.process for worker in workers.values())]:
            process.kill()


if __name__ == "__main__":
    main()
