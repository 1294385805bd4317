"""Run the notebooks of ``samples`` and store their outputs: ``python -m tests.tools.notebooks`` (or ``make notebooks``).

Pictures are stored as JPEG of at most 900 pixels, so that the notebooks stay small.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from tests.conftest import ROOT

FOLDER = ROOT / "samples"
NOTEBOOKS = ("quickstart", "own-model")
WIDTH = 900  # pixels
TIMEOUT = 120  # seconds for a cell


def run_notebook(name: str) -> Any:
    """Return the notebook with the outputs of a new run in the folder of the notebooks. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(path_of(name), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    return client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})


def path_of(name: str) -> Path:
    """Return the path of a notebook."""
    return FOLDER / f"{name}.ipynb"


def shrink_outputs(notebook: Any) -> None:
    """Replace PNG pictures by JPEG, and remove the places of warnings, which differ between runs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                output["text"] = re.sub(r"\S+\.py:\d+: (\w+: .*\n)(  .*\n)?", r"\1", output["text"])
            data = output.get("data", {})
            if "image/png" in data:
                data["image/jpeg"] = _to_jpeg(data.pop("image/png"))


def _to_jpeg(png: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode() + "\n"


def list_outputs(cell: Mapping[str, Any]) -> list[str]:
    """Return the kinds of the outputs of a cell. Pictures are ``image``, in whichever format."""
    kinds = []
    for output in cell.get("outputs", ()):
        formats = {"image" if name.startswith("image/") else name for name in output.get("data", ())}
        kinds.append(" ".join([output["output_type"], output.get("name", ""), *sorted(formats)]))
    return kinds


def main() -> None:
    """Run all notebooks and replace their files."""
    for name in NOTEBOOKS:
        notebook = run_notebook(name)
        shrink_outputs(notebook)
        notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec",)}
        nbformat.write(notebook, path_of(name))
        print(f"{path_of(name)}: {path_of(name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
