"""CPU threads: how many PyTorch uses, and how they wait for each other.

Without a limit PyTorch starts one thread per core of the machine, also in a container that may use only some of them. Its OpenMP
threads spin while they wait; on a busy machine they then take the time of the threads for which they wait.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

# Iterations that a thread of GNU OpenMP spins before it sleeps. The default is 300,000, which are milliseconds.
SPIN_COUNT = "2000"
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting OpenMP threads sleep early, unless the user chose how they wait. Has no effect once torch is imported."""
    if not any(name in environment for name in WAITING_VARIABLES):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT


def set_threads(threads: int | None) -> None:
    """Set the number of threads of PyTorch's CPU operations.

    threads: the number, or None to keep PyTorch's choice, which OMP_NUM_THREADS overrides, up to the CPU quota of the container.
    """
    import torch

    if threads is None:
        quota = read_cpu_quota()
        if quota is None or "OMP_NUM_THREADS" in os.environ:
            return
        threads = min(torch.get_num_threads(), max(math.floor(quota), 1))
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def count_usable_cpus() -> int:
    """Return the number of cores that this process may use: those of its affinity, up to the CPU quota of the container."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = read_cpu_quota()
    return cores if quota is None else max(min(cores, math.floor(quota)), 1)


def read_cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the number of CPUs that the control groups of this process may use, or None if it is not limited.

    root: folder of ``proc`` and ``sys``.
    """
    mount = root / "sys/fs/cgroup"
    quotas = [_read_v1_quota(mount / "cpu")]
    for group in _list_groups(root / "proc/self/cgroup"):
        path = mount / group
        while path.is_relative_to(mount):  # a limit of a parent applies too
            quotas.append(_read_v2_quota(path))
            path = path.parent
    return min((quota for quota in quotas if quota is not None), default=None)


def _list_groups(path: Path) -> list[str]:
    """Return the control groups of the process in the unified hierarchy, as relative paths."""
    lines = _read(path).splitlines()
    return [line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")]


def _read_v2_quota(folder: Path) -> float | None:
    """Return the limit in ``cpu.max``: microseconds per period, such as ``200000 100000``."""
    match _read(folder / "cpu.max").split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            return int(quota) / int(period)
    return None


def _read_v1_quota(folder: Path) -> float | None:
    """Return the limit of version 1 of control groups; a quota of -1 means none."""
    quota, period = (_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
