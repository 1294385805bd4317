"""The guide of known truth: its commands run, and the names in it exist."""

from __future__ import annotations

import re
import shlex

from tests.conftest import ROOT
from xplain.core.registry import METHODS, METRICS
from xplain.known import MECHANISMS

GUIDE = (ROOT / "samples" / "guides" / "known-truth.md").read_text("utf-8")


def test_commands_of_the_guide_run(xp):
    (block,) = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    lines = [line for line in block.splitlines() if line.startswith("xplain")]
    assert len(lines) == 3
    for line in lines:
        ran = xp(*shlex.split(line, comments=True)[1:])
        assert ran.code == 0, ran.err
        assert ran.lines


def test_names_in_the_guide_exist():
    assert len(GUIDE.splitlines()) <= 70
    names = set(re.findall(r"`known:([a-z-]+)`", GUIDE)) - {"all"}
    assert names <= set(MECHANISMS)
    rows = re.findall(r"^\| `([a-z-]+)[:a-z=,0-9-]*` \|", GUIDE, re.MULTILINE)
    known = {name for registry in (METHODS, METRICS) for spec in registry for name in spec.names}
    assert len(rows) > 15
    assert set(rows) <= known
