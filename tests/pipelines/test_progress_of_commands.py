"""Progress of commands: it moves inside a batch, and starts where an interrupted run stands."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from xplain.core.config import Choice, CompareConfig, EvaluateConfig, ExplainConfig
from xplain.core.options import ComputeOptions, ModelOptions
from xplain.pipelines.compare_images import write_comparison
from xplain.pipelines.evaluate import evaluate
from xplain.pipelines.explain import explain


def compare(config, on_progress):
    """Run a comparison, with failures ignored, and return no results."""
    write_comparison(config, on_progress, lambda failure: None)
    return ()


def interrupt(*arguments):
    raise KeyboardInterrupt


MODEL = ModelOptions("python:tests.helpers.factories:tiny", device="cpu")


def collect(run, config) -> list[tuple[float, float]]:
    """Run a command to its end; return the reports of its progress."""
    reports: list[tuple[float, float]] = []
    list(run(config, lambda done, total: reports.append((done, total))))
    return reports


@pytest.fixture
def configs(tmp_path) -> dict:
    methods = (Choice("ig", (("steps", "8"),)), Choice("sm"))
    return {
        explain: ExplainConfig(MODEL, ComputeOptions(), (str(SAMPLES),), methods, tmp_path / "out"),
        evaluate: EvaluateConfig(
            MODEL, ComputeOptions(), str(SAMPLES), methods, (Choice("deletion", (("steps", "3"),)),), tmp_path / "run"
        ),
        compare: CompareConfig(
            MODEL,
            ComputeOptions(),
            (MODEL.name,),
            (str(SAMPLES),),
            methods,
            tmp_path / "compare",
            metrics=(Choice("deletion", (("steps", "3"),)),),
        ),
    }


@pytest.mark.parametrize("command", [explain, evaluate, compare])
def test_progress_moves_inside_a_batch_and_never_back(configs, command):
    reports = collect(command, configs[command])
    assert all(first[0] <= second[0] for first, second in pairwise(reports))
    assert reports[-1][0] == reports[-1][1]
    assert any(0 < done < total for done, total in reports)


@pytest.mark.parametrize("command", [explain, evaluate])
def test_progress_of_finished_command_starts_at_the_end(configs, command):
    collect(command, configs[command])
    assert {done / total for done, total in collect(command, configs[command])} == {1}


def test_progress_of_explain_starts_at_existing_files(configs, tmp_path):
    collect(explain, configs[explain])
    missing = sorted((tmp_path / "out").glob("*.saliency.*"))[0]
    Path(missing).unlink()
    (first, *_) = collect(explain, configs[explain])
    assert first[0] == first[1] - 3  # one row of the method, and two of its repeat with noise


def test_progress_of_compare_moves_inside_a_cell(configs):
    config = replace(configs[compare], inputs=(str(SAMPLES / "cat.jpg"),), methods=configs[compare].methods[:1])
    reports = collect(compare, config)
    assert len({done for done, _ in reports if 0 < done < reports[-1][1]}) > 1


def test_progress_of_compare_starts_at_finished_cells(configs, monkeypatch):
    (start, *_) = collect(compare, configs[compare])
    config = replace(configs[compare], output=configs[compare].output.with_name("interrupted"))
    with monkeypatch.context() as patch:
        patch.setattr("xplain.pipelines.compare_images.draw_comparison", interrupt)
        with pytest.raises(KeyboardInterrupt):
            collect(compare, config)
    cells = sorted((config.output / "compare.part").glob("*.saliency.*.npz"))
    cells[-1].unlink()
    (first, *_) = collect(compare, config)
    assert start[0] == 0
    assert first[1] * 0.7 < first[0] < first[1]
