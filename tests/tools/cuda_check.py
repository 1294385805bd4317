"""Check xplain on a CUDA device and measure its speed there, in at most ten minutes: ``python -m tests.tools.cuda_check``.

It compares every method and metric with the CPU in float64, runs a command, lets memory run out, compares memory layouts, and runs
``xplain bench`` on four models, with captum beside it if that is installed. Results are written to cuda.json and cuda.md after each part.
The exit code is 1 if a check failed, and 4 without a CUDA device. Nothing is downloaded; weights are random.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.tools.cuda_parts import (
    ROOT,
    PartResult,
    check_agreement,
    check_back_off,
    check_command,
    check_layouts,
    run_bench,
)
from xplain.core.errors import ExitCode, first_line
from xplain.models.devices import select_device

OUTPUT = ROOT / "build" / "cuda"
COMMAND = ("-a", "agi", "-m", "resnet152", "--weights", "random")
RANDOM = ("--weights", "random")
STANDARD = ("-a", "saliency", "-a", "ig", "--images", "32", "--repeats", "2")
PATHS = ("-a", "agi", "-a", "mfaba:steps=10", "-M", "deletion", "--images", "32", "--repeats", "2")
BF16, TF32 = ("--precision", "bf16"), ("--precision", "tf32")
# Arguments by name, and whether captum runs beside xplain. The peers of agi and mfaba run one step at a time, which takes minutes.
BENCHMARKS: dict[str, tuple[tuple[str, ...], bool]] = {
    "resnet50-bf16": (("-m", "resnet50", *RANDOM, *BF16, *STANDARD), True),
    "resnet50-paths-bf16": (("-m", "resnet50", *RANDOM, *BF16, *PATHS), False),
    "resnet152-bf16": (("-m", "resnet152", *RANDOM, *BF16, *STANDARD), True),
    "vit_b_16-bf16": (("-m", "vit_b_16", *RANDOM, *BF16, *STANDARD), True),
    "lite0-bf16": (("-m", "efficientnet-lite0", *BF16, *STANDARD), True),
    "resnet50-tf32": (("-m", "resnet50", *RANDOM, *TF32, *STANDARD), True),
    "resnet50-fp32": (("-m", "resnet50", *RANDOM, *STANDARD), True),
}
MAX_BENCHMARK_SECONDS = 120
MIN_SECONDS = 30  # a part is skipped if less time is left

Part = Callable[[float], PartResult]  # of the seconds that are left


def list_parts(device: str, folder: Path) -> dict[str, Part]:
    """Return the parts by name, the most important first."""
    parts: dict[str, Part] = {
        "command": lambda _: check_command(device, folder, COMMAND),
        "agreement": lambda _: check_agreement(device),
        "memory": lambda _: check_back_off(device),
        "layouts": lambda _: check_layouts(device),
    }
    for name, (arguments, peer) in BENCHMARKS.items():
        parts[f"bench {name}"] = _make_benchmark(device, folder, name, arguments, peer)
    return parts


def _make_benchmark(device: str, folder: Path, name: str, arguments: Sequence[str], peer: bool) -> Part:
    return lambda left: run_bench(device, folder, name, arguments, min(left, MAX_BENCHMARK_SECONDS), peer=peer)


def run_parts(parts: dict[str, Part], seconds: float, folder: Path, machine: dict[str, Any]) -> list[PartResult]:
    """Run the parts until the time is over, and write the files after each. An exception is a failure of its part."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline, results = time.monotonic() + seconds, list[PartResult]()
    for name, part in parts.items():
        left = deadline - time.monotonic()
        started = time.monotonic()
        if left < MIN_SECONDS:
            result = PartResult(name, [f"skipped: {left:.0f} s are left"], [])
        else:
            try:
                result = part(left)
            except Exception as error:  # the other parts are still of use
                result = PartResult(name, [f"{type(error).__name__}: {first_line(error)}"], [])
        results.append(replace(result, name=name, seconds=time.monotonic() - started))
        write_files(results, folder, machine)
        print(f"{name}: {'; '.join(result.failures) or 'passed'} ({results[-1].seconds:.0f} s)", flush=True)
    return results


def write_files(results: Sequence[PartResult], folder: Path, machine: dict[str, Any]) -> None:
    """Write cuda.json and cuda.md."""
    records = [
        {"part": result.name, "seconds": round(result.seconds, 1), "failures": result.failures, "data": result.data}
        for result in results
    ]
    content = json.dumps({"machine": machine, "parts": records}, indent=1)
    (folder / "cuda.json").write_text(content + "\n", "utf-8")
    sections = ["# xplain on CUDA", ", ".join(f"{key} {value}" for key, value in machine.items())]
    for result in results:
        failures = [f"* **failed**: {failure}" for failure in result.failures]
        body = "\n".join([*failures, *([""] if failures else []), *result.lines])
        sections.append(f"## {result.name} ({result.seconds:.0f} s)\n\n{body}")
    (folder / "cuda.md").write_text("\n\n".join(sections) + "\n", "utf-8")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the device and the versions."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {"GPU": gpu, "CUDA": torch.version.cuda, "PyTorch": torch.__version__, "Python": platform.python_version()}


def main(arguments: Sequence[str]) -> int:
    """Run the parts and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.cuda_check", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="run these parts only")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=540, help="time for all parts (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            f"no CUDA device: PyTorch {torch.__version__} found none; run this on a machine with a GPU", file=sys.stderr
        )
        return ExitCode.DEVICE_ERROR
    parts = list_parts(options.device, options.output)
    unknown = [name for name in options.parts if name not in parts]
    if unknown:
        parser.error(f"unknown parts: {', '.join(unknown)}; choose from {', '.join(parts)}")
    chosen = {name: part for name, part in parts.items() if not options.parts or name in options.parts}
    machine = describe_machine(select_device(options.device))
    results = run_parts(chosen, options.seconds, options.output, machine)
    failed = [result.name for result in results if result.failures]
    print(f"{len(results) - len(failed)} parts passed, {len(failed)} failed; results in {options.output / 'cuda.md'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
