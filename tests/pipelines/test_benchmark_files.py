"""The files of a benchmark: when an interrupted one is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from xplain.core.config import BenchConfig, Choice
from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions, ModelOptions
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
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content == {
        "request": {"models": ["net"], "methods": ["saliency"], "metrics": [], "inputs": []},
        "records": [ENVIRONMENT],
    }
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


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"repeats": 6}, "different repeats: the default instead of 6"),
        ({"models": ("net", "other")}, "different models: ['net'] instead of ['net', 'other']"),
        (
            {"methods": (Choice("ig", (("steps", "3"),)),)},
            "different methods: ['saliency'] instead of ['ig:steps=3']",
        ),
        ({"inputs": ("/x/../a.png",)}, "different inputs: [] instead of ['/a.png']"),
        ({"model": ModelOptions(image_size=32)}, "different image size: the default instead of 32"),
        ({"model": ModelOptions(weights=Path("random"))}, "different weights: the default instead of 'random'"),
        ({"model": ModelOptions(device="cpu")}, "different device: the default instead of 'cpu'"),
        ({"compute": ComputeOptions(precision="bf16")}, "different precision: the default instead of 'bf16'"),
    ],
)
def test_other_benchmark_is_not_overwritten(tmp_path, changed, words, finished):
    files = BenchmarkFiles(tmp_path, CONFIG)
    files.write(GROUPS)
    if finished:
        files.finish(GROUPS)
    hint = "use the same settings, delete its files or choose another --output"
    with pytest.raises(UsageError) as error:
        BenchmarkFiles(tmp_path, replace(CONFIG, **changed)).check_existing()
    assert str(error.value) == f"{str(tmp_path)!r} contains a benchmark with {words}; {hint}"
    BenchmarkFiles(tmp_path, replace(CONFIG, model=ModelOptions(offline=True))).check_existing()


@pytest.mark.parametrize("content", ['{"records": []}', "", "[]", '{"request": 1}'])
def test_results_with_unknown_settings_are_not_overwritten(tmp_path, content):
    (tmp_path / "bench.json").write_text(content)
    files = BenchmarkFiles(tmp_path, CONFIG)
    with pytest.raises(
        UsageError, match=r"bench\.json' does not say with which settings it was measured; delete it or"
    ):
        files.check_existing()
    files.partial_path.write_text(json.dumps({"asked": repr(CONFIG), "groups": GROUPS}))  # of an earlier version
    files.check_existing()
    assert files.load_existing() == GROUPS
    (tmp_path / "bench.json").unlink()
    files.partial_path.write_text("[1")
    files.check_existing()
