"""Options of each command that computes, and checks of what it writes; for tests that interrupt commands or make them fail."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xplain.reports.render import read_record

METHODS = ("-a", "sm", "-a", "sg:samples=3", "-b", "2")
OPTIONS = {  # besides the images and the model
    "explain": (*METHODS, "--save", "overlay", "--save", "raw", "--stability", "off"),
    "evaluate": (*METHODS, "-M", "deletion:steps=3", "--save-maps"),
    "compare": (*METHODS, "-M", "deletion:steps=3", "--stability", "off"),
    "bench": (*METHODS, "--images", "2", "--repeats", "1", "--no-progress"),
}
COMMANDS = list(OPTIONS)
RESULT_LINE = re.compile(
    r"xplain: (the report is |\d+ of \d+ results are kept from an earlier command; |(?!note: |warning: |error: ).*: .*: .* -?\d[\d.e+-]*$)"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def check_files(folder: Path) -> set[str]:
    """Assert that every file with a final name is complete; return the names."""
    names = set()
    for path in folder.rglob("*") if folder.exists() else ():
        if path.is_dir() or (path.name.startswith(".") and path.name.endswith(".part")):
            continue
        names.add(path.relative_to(folder).as_posix())
        if path.suffix == ".npz":
            with np.load(path) as content:
                assert {name: content[name].shape for name in content.files}
            assert read_record(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().endswith("</html>\n")
    return names


def read_results(command: str, folder: Path) -> object:
    """Return the results in the files of a command, without durations."""
    if command == "explain":
        return {path.name: np.load(path)["attribution"].tobytes() for path in sorted(folder.glob("**/*.npz"))}
    if command == "evaluate":
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("summary")}
    if command == "compare":
        record = json.loads((folder / "compare.json").read_text())
        return [
            (row["input"], row["target"], row["agreement"], [cell["scores"] for cell in row["cells"]])
            for row in record["rows"]
        ]
    records = json.loads((folder / "bench.json").read_text())["records"]
    return [(r["kind"], r.get("label"), r.get("images"), r.get("forwards"), r.get("backwards")) for r in records]


def read_messages(err: str) -> list[str]:
    """Return the messages on stderr without the lines that name written files; assert that the command printed them."""
    lines = err.splitlines()
    assert all(line.startswith("xplain: ") for line in lines), err
    return [line for line in lines if not RESULT_LINE.match(line)]


def single_line(err: str) -> str:
    """Return the only message on stderr; assert that the command printed it."""
    (line,) = read_messages(err)
    return line
