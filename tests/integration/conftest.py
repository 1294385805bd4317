"""Fixtures of tests that interrupt commands or make them fail."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.factories import Failure


class SmallFigure:
    """A figure that is saved at low resolution."""

    def __init__(self, figure):
        self.figure = figure

    def savefig(self, stream, *, dpi, **options):
        self.figure.savefig(stream, dpi=20, **options)


@pytest.fixture
def fast_commands(monkeypatch) -> None:
    """Draw small figures, and time the plain model briefly in bench."""
    import_module("matplotlib")  # makes its configuration folder, which a child process of another user cannot
    from xplain.pipelines import model_benchmark, throughput
    from xplain.reports.figures import save_figure

    for module in ("comparison_figure", "agreement"):
        monkeypatch.setattr(
            f"xplain.reports.{module}.save_figure", lambda figure, form: save_figure(SmallFigure(figure), form)
        )
    monkeypatch.setattr(throughput, "CPU_SIZES", (1, 2))
    monkeypatch.setattr(model_benchmark, "MIN_SECONDS", 0.001)


@pytest.fixture
def noise(tmp_path) -> Path:
    """A folder with six small images in class folders."""
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "noise" / ("cat", "espresso", "rocket")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(90, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "noise"


@pytest.fixture
def failure():
    """When the networks of ``factories.failing`` fail; they do not at first."""
    Failure.at, Failure.calls = None, 0
    yield Failure
    Failure.at = None
