"""Threads: the CPU quota of containers, the way threads wait, and ``--threads``."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import TINY
from tests.helpers import toys  # noqa: F401  (sets the number of threads when it is imported)
from tests.helpers.commands import single_line
from xplain.core.threads import limit_spinning, read_cpu_quota, set_threads


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {  # a limit of the parent applies to the child
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            },
            2.0,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_cpu_quota(tmp_path, files, expected):
    write(tmp_path, files)
    assert read_cpu_quota(tmp_path) == expected


@pytest.fixture
def threads(monkeypatch) -> list[int]:
    """The numbers of threads that are set, after 3. They are not really set: other tests fork, which threads of OpenMP do not survive."""
    numbers = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


@pytest.mark.parametrize(("quota", "expected"), [(None, 3), (1.9, 1), (0.5, 1), (2.0, 2), (64.0, 3)])
def test_automatic_threads_respect_the_quota(monkeypatch, threads, quota, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("xplain.core.threads.read_cpu_quota", lambda: quota)
    set_threads(None)
    assert threads[-1] == expected


def test_given_threads_override_the_quota(monkeypatch, threads):
    monkeypatch.setattr("xplain.core.threads.read_cpu_quota", lambda: 1.0)
    set_threads(2)
    assert threads == [3, 2]


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_waiting_policy_of_the_user_is_kept(name):
    environment = {name: "7"}
    limit_spinning(environment)
    assert environment == {name: "7"}


def test_command_sets_the_spin_count_before_torch_is_imported():
    program = (
        "import os, sys; from xplain.__main__ import main; sys.argv = ['xplain', '--version']\n"
        "try: main()\n"
        "finally: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.splitlines()[-1] == "2000 False"


def test_threads_option(xp, photos, threads):
    assert xp("explain", photos / "cat/a.jpg", *TINY, "-a", "sm", "--threads", "2").code == 0
    assert threads == [3, 2]
    for number in ("0", "1025"):
        ran = xp("explain", photos / "cat/a.jpg", *TINY, "-a", "sm", "--threads", number)
        assert (ran.code, single_line(ran.err)) == (
            2,
            f"xplain: error: invalid number of threads '{number}'; use auto or an integer from 1 to 1024",
        )
