"""The files of a benchmark: when an interrupted one is resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from xplain.core.config import BenchConfig, Choice, ComputeOptions, ModelOptions
from xplain.pipelines.benchmark_files import BenchmarkFiles

CONFIG = BenchConfig(ModelOptions(), ComputeOptions(), models=("net",), methods=(Choice("saliency"),), metrics=())
ENVIRONMENT = {
    "kind": "environment",
    "gpu": None,
    "cpu": "chip",
    "cores": 2,
    "threads": 1,
    "precision": "fp32",
    "repeats": 5,
}
GROUPS = [[ENVIRONMENT]]


def test_write_keeps_groups_for_resume(tmp_path):
    files = BenchmarkFiles(tmp_path, CONFIG)
    assert files.load_existing() == []
    files.write(GROUPS)
    assert files.load_existing() == GROUPS
    assert json.loads((tmp_path / "bench.json").read_text()) == {"records": [ENVIRONMENT]}
    assert (tmp_path / "bench.md").read_text().startswith("chip, 2 cores; 1 threads, fp32")


def test_finish_removes_partial_file(tmp_path):
    files = BenchmarkFiles(tmp_path, CONFIG)
    files.write(GROUPS)
    files.finish(GROUPS)
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.md"}
    assert files.load_existing() == []


def test_load_existing_ignores_other_config(tmp_path):
    BenchmarkFiles(tmp_path, CONFIG).write(GROUPS)
    assert BenchmarkFiles(tmp_path, replace(CONFIG, repeats=6)).load_existing() == []


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"asked": 1', b"\xff"])
def test_load_existing_ignores_invalid_file(tmp_path, content):
    files = BenchmarkFiles(tmp_path, CONFIG)
    files.partial_path.write_bytes(content)
    assert files.load_existing() == []
