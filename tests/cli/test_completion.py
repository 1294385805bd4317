"""Shell completion of commands, options and names, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from xplain.cli import _completion as completion
from xplain.core.registry import METHODS, METRICS
from xplain.pipelines import catalog


def test_complete_names_equal_registry():
    assert completion.complete_method("") == sorted(spec.name for spec in METHODS)
    assert completion.complete_metric("") == sorted(spec.name for spec in METRICS)
    assert completion.complete_paper("de") == ["deconvnet", "deep-taylor", "deeplift", "deletion"]


def test_complete_model_equals_list_models():
    listed = {row["name"] for row in catalog.list_models() if row["source"] != "timm"}
    assert set(completion.complete_model("")) - set(completion.PREFIXES) == listed
    assert completion.complete_model("resnet1") == ["resnet101", "resnet152", "resnet18"]


def complete(words: str) -> list[str]:
    """Return the completions that bash offers after these words."""
    ran = subprocess.run(
        [sys.executable, "-m", "xplain"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "_XPLAIN_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "PYTHONPATH": str(ROOT),
        },
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("xplain ex", ["explain"]),
        ("xplain explain --prec", ["--precision"]),
        ("xplain explain a.jpg -a agi -a mf", ["mfaba"]),
        ("xplain evaluate photos -M road-", ["road-lerf", "road-morf"]),
        ("xplain compare a.jpg -m vgg16", ["vgg16", "vgg16_bn"]),
        ("xplain evaluate photos --protocol d", ["dga"]),
        ("xplain bench --peer ", ["captum"]),
        ("xplain list p", ["protocols"]),
        ("xplain cite sensitivity", ["sensitivity-n"]),
    ],
)
def test_bash_offers_completions(words, offered):
    assert complete(words) == offered


def test_completion_does_not_import_torch():
    code = (
        "import sys; from xplain.cli import _completion as c; c.complete_model(''); c.complete_paper('');"
        "print([m for m in ('torch', 'torchvision', 'numpy', 'PIL') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_sources_show_completion(tmp_path):
    """Source the printed script in a bash with this ``xplain`` on its PATH, and read COMPREPLY."""
    command = tmp_path / "xplain"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m xplain "$@"\n')
    command.chmod(0o755)
    script = """
eval "$(xplain --show-completion bash)"
complete -p xplain
COMP_WORDS=(xplain explain a.jpg --method att); COMP_CWORD=4
$(complete -p xplain | sed 's/.*-F \\([^ ]*\\).*/\\1/') xplain
echo "${COMPREPLY[@]}"
"""
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    ran = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "SHELL": "/bin/bash"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1] == "attention-relevance attention-rollout attexplore"
