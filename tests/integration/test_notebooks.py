"""The notebooks of ``samples`` run from start to end, and their stored outputs are those of a new run in kind and in text."""

from __future__ import annotations

import re

import pytest

from tests.tools.notebooks import NOTEBOOKS, list_outputs, path_of, run_notebook

nbformat = pytest.importorskip("nbformat")
MAX_BYTES = 300_000
FACTS = {  # what the text around the outputs relies on
    "quickstart": ["target 'tiger cat' 0.39", "deletion:steps=7 +grad-cam .* not better"],
    "own-model": [
        "accuracy on 397 test images: 0.9",
        "integrated-gradients .*  better",
        "insertion:steps=16 +grad-cam .*  worse",
        "insertion:steps=16 +hires-cam .*  better",
        "hires-cam +mean similarity to the map of a randomized network [+-]0.[0-2]",
        "warnings: none",
    ],
}


def read_text(notebook) -> str:
    """Return the text of all outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_its_outputs_are_current(name):
    assert path_of(name).stat().st_size < MAX_BYTES
    stored = nbformat.read(path_of(name), as_version=4)
    nbformat.validate(stored)
    ran = run_notebook(name)
    assert [list_outputs(cell) for cell in stored.cells] == [list_outputs(cell) for cell in ran.cells]
    for fact in FACTS[name]:
        for notebook in (stored, ran):
            assert re.search(fact, read_text(notebook)), fact
    without_numbers = [re.sub(r"[-+]?\d+(\.\d+)?", "#", read_text(notebook)) for notebook in (stored, ran)]
    lines = [re.sub(r"\S+\.py:#: ", "", text).splitlines() for text in without_numbers]
    assert [line for line in lines[0] if "#" in line] == [line for line in lines[1] if "#" in line]
