"""Progress of commands: it moves inside a batch, and starts where an interrupted run stands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from xplain.core.config import Choice, ComputeOptions, EvaluateConfig, ExplainConfig, ModelOptions
from xplain.pipelines.evaluate import evaluate
from xplain.pipelines.explain import explain

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
    }


@pytest.mark.parametrize("command", [explain, evaluate])
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
    assert first[0] == first[1] - 1
