"""The values of all methods and metrics at their defaults are those that were stored; see ``tests/tools/store_values.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.tools.store_values import FILE, GROUPS, compute_digests, describe_environment
from xplain.core.registry import METHODS

STORED = json.loads(FILE.read_text("utf-8"))
AMPLIFIES_ROUNDING = {f"method/{spec.name}" for spec in METHODS if spec.rounding}


def is_close(current: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Compare the sums, relative to the size of the values."""
    tolerance = 1e-3 * max(stored["norm"], 1e-12)
    return all(abs(current[key] - stored[key]) <= tolerance for key in ("norm", "sum", "projection"))


def compute_in_new_process(group: str) -> dict[str, Any]:
    """Return the current values of a group. Other tests may leave settings of torch that change the last bits."""
    program = (
        "import json; from tests.tools.store_values import GROUPS, summarize; "
        f"print(json.dumps({{name: summarize(values) for name, values in GROUPS[{group!r}]().items()}}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("group", GROUPS)
def test_values_are_unchanged(group):
    """Equal to the byte in the environment of the stored values, and close elsewhere unless signs amplify rounding."""
    current = compute_in_new_process(group)
    stored = STORED["values"][group]
    assert current.keys() == stored.keys()
    if describe_environment() == STORED["environment"]:
        changed = [name for name in stored if current[name]["sha256"] != stored[name]["sha256"]]
    else:
        compared = stored.keys() - AMPLIFIES_ROUNDING
        changed = [name for name in compared if not is_close(current[name], stored[name])]
    assert changed == []


def test_digests_are_unchanged():
    """A run that was begun by another version is continued only if these stay the same."""
    assert compute_digests() == STORED["digests"]
