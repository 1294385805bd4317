"""Figures under the user's matplotlib settings."""

from __future__ import annotations

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from tests.conftest import ROOT
from xplain.core.options import RenderOptions
from xplain.reports.figures import new_figure, paper_style, save_figure
from xplain.reports.render import draw, get_colormap

SETTINGS = [  # each of which changes a figure or ends with an error
    {"text.usetex": True},
    {"font.size": 40, "font.family": "monospace", "axes.grid": True},
    {"savefig.bbox": "tight", "savefig.facecolor": "black", "savefig.dpi": 20},
    {"image.interpolation": "bilinear", "axes.edgecolor": "red", "xtick.direction": "in", "axes.titlelocation": "left"},
    {"axes.xmargin": 0.4, "figure.subplot.left": 0.4, "axes.unicode_minus": False, "lines.linewidth": 9},
]


def draw_explanation() -> bytes:
    values = np.linspace(-1, 1, 3 * 8 * 8).reshape(3, 8, 8)
    record = {"method": "sm", "prediction": [{"index": 1, "name": "cat", "probability": 0.5}]}
    return draw("figure", np.full((8, 8, 3), 99, np.uint8), values, RenderOptions(sign="signed"), record)


def draw_paper_figure(form: str) -> bytes:
    with paper_style():
        figure = new_figure(2, 1, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, -1, 2])
        axes.set_title("a title")
        return save_figure(figure, form)


@pytest.mark.parametrize("settings", SETTINGS)
def test_figures_ignore_user_settings(settings):
    expected = draw_explanation(), draw_paper_figure("png"), draw_paper_figure("svg")
    with matplotlib.rc_context(settings):
        before = dict(matplotlib.rcParams)
        assert (draw_explanation(), draw_paper_figure("png"), draw_paper_figure("svg")) == expected
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("variables", "matplotlibrc"),
    [
        ({"MPLBACKEND": "Qt4Agg"}, ""),
        ({"MPLBACKEND": "module://no_such_backend"}, ""),
        ({}, "backend: GTKCairo\nno such line\nfont.size: large\n"),
    ],
)
def test_import_ignores_backend_and_bad_lines(tmp_path, variables, matplotlibrc):
    (tmp_path / "matplotlibrc").write_text(matplotlibrc)
    code = "import os, xplain.reports.render as r; r.get_colormap('inferno'); print(os.environ.get('MPLBACKEND'))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
    )
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", f"{variables.get('MPLBACKEND')}\n")


def test_colormap_is_found_without_another_import():
    assert get_colormap("viridis").name == "viridis"
