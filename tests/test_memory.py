"""Memory: kept while the engine works, given back afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from xplain.memory import _library, kept_memory

pytestmark = pytest.mark.skipif(_library() is None, reason="the C library is not glibc")
SIZE = 200 << 20  # bytes


def resident() -> int:
    """Bytes of this process in memory, less what is only mapped from files: the system drops and reads those as it likes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def held_after_a_tensor() -> float:
    """What stays in memory when a tensor of SIZE was made and freed, as a share of it."""
    before = resident()
    tensor = torch.ones(SIZE // 4)
    assert resident() - before > 0.9 * SIZE
    del tensor
    return (resident() - before) / SIZE


def check_outside_nothing_stays():
    assert held_after_a_tensor() < 0.1


def check_inside_memory_stays_and_is_used_again_and_goes_back_in_the_end():
    before = resident()
    with kept_memory():
        assert held_after_a_tensor() > 0.9
        with kept_memory():
            for _ in range(30):  # now and then one does not fit into the place of its like
                torch.ones(SIZE // 4)
            assert resident() - before < 6 * SIZE
        assert resident() - before > 0.9 * SIZE  # the outermost decides
    assert resident() - before < 0.1 * SIZE


def check_memory_goes_back_after_an_error():
    before = resident()
    with pytest.raises(ZeroDivisionError), kept_memory():
        raise ZeroDivisionError(held_after_a_tensor())
    assert resident() - before < 0.1 * SIZE


def test_in_a_process_of_its_own():
    """What earlier work left in the heap would be used again."""
    checks = [name for name in globals() if name.startswith("check_")]
    code = f"from tests import test_memory as t\nfor name in {checks}: getattr(t, name)()"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, len(checks)) == (0, 3), ran.stderr
