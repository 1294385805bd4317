"""The public API under mypy --strict in a user's program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
from collections.abc import Callable
from typing import assert_type

from torch import Tensor

import xplain

clf = xplain.load_classifier("efficientnet-lite0", device="cpu", weights=None, classes=None)
assert_type(clf, xplain.Classifier)
assert_type(clf.labels, list[str])
assert_type(clf.size, tuple[int, int])
x = xplain.read_image("cat.jpg", size=clf.size)
assert_type(x, Tensor)
att = xplain.attribute(clf, x[None], "agi", target=281, against=["tabby"], score=None, seed=0, precision="fp32", steps=5)
assert_type(att, xplain.Attribution)
assert_type(att.values, Tensor)
assert_type(att.target, Tensor | None)
assert_type(att.cost.rows, int)
assert_type(att.gap, Tensor | None)
score = xplain.measure(clf, x[None], att.values, "deletion", target=None, seed=0, batch_size="auto", steps=28)
assert_type(score, xplain.Score)
assert_type(score.values, Tensor)
assert_type(score.curve, Tensor | None)
explanation = xplain.explain(clf, "cat.jpg", "ig", target=281, steps=10)
assert_type(explanation, xplain.Explanation)
assert_type(explanation.values, Tensor)
assert_type(explanation.probability, float | None)
assert_type(xplain.explain("resnet50", ["cat.jpg", x]), xplain.Explanations)
evaluation = xplain.evaluate(clf, "photos", ["ig"], ["deletion"], limit=10)
assert_type(evaluation, xplain.Evaluation)
assert_type(evaluation.mean("ig", "deletion"), float | None)
assert_type(xplain.methods()["agi"].summary, str)
assert_type(xplain.metrics()[0].better, str)
assert_type([entry.name for entry in xplain.methods()], list[str])
assert_type(clf.top_classes("cat.jpg", 3)[0].probability, float)
try:
    xplain.attribute(clf, x[None], "agii")
except xplain.XplainError as error:
    assert_type(error.exit_code, int)
"""

WRONG = {
    "precision": 'xplain.attribute(clf, x[None], "agi", precision="fp16")',
    "score": 'xplain.attribute(clf, x[None], "agi", score="loss")',
    "method": "xplain.attribute(clf, x[None], 3)",
    "maps": 'xplain.measure(clf, x[None], [1.0], "deletion")',
    "result": "score.curve.mean()",
    "name": "xplain.explane(clf)",
    "images": "xplain.explain(clf)",
}


CONFIG = """
[mypy]
strict = True
follow_imports = skip
[mypy-xplain.*]
follow_imports = silent
ignore_errors = True
[mypy-torch,torch._tensor,torch._C,torch.nn,torch.nn.modules.module,torch.autograd,torch.autograd.grad_mode,torch.utils._contextlib]
follow_imports = silent
ignore_errors = True
[mypy-numpy.*,PIL.Image]
follow_imports = silent
"""  # reads what the public signatures name, which takes 3 s; all libraries take 40 s


@pytest.fixture(scope="module")
def reported_lines(tmp_path_factory) -> list[str]:
    """Return, for each error of mypy in the program followed by the lines of WRONG, the name in the line's comment.

    A line without a comment is returned as it is.
    """
    file = tmp_path_factory.mktemp("user") / "program.py"
    file.with_name("mypy.ini").write_text(CONFIG)
    file.write_text("\n".join((PROGRAM, *(f"{line}  # {name}" for name, line in WRONG.items()))))
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", file.name],
        capture_output=True,
        text=True,
        cwd=file.parent,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr
    text = file.read_text().splitlines()
    errors = [line.split(":", 2) for line in ran.stdout.splitlines() if line.startswith("program.py:")]
    return [text[int(number) - 1].rpartition("  # ")[2] for _, number, *_ in errors]


def test_mypy_reports_only_wrong_lines(reported_lines):
    assert sorted(set(reported_lines)) == sorted(WRONG)


def test_package_is_marked_typed():
    assert (ROOT / "xplain" / "py.typed").exists()
