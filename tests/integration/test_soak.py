"""``make soak``: resident memory stays constant over a run of 200 images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

IMAGES = 200
SHARED = ROOT.parent / "shared" / "imagenet_samples"


def resident_mebibytes() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_images(folder: Path) -> Path:
    """Write noise images of 200 different sizes into ``folder`` and return it."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(IMAGES):
        pixels = rng.integers(0, 256, (300 + 2 * i, 700 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.jpg")
    return folder


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_resident_memory_is_flat(tmp_path):
    from xplain.core.config import Choice, EvaluateConfig
    from xplain.core.options import ComputeOptions, ModelOptions
    from xplain.pipelines.evaluate import evaluate

    data = SHARED if SHARED.is_dir() else make_images(tmp_path / "images")
    metric = Choice("deletion", (("steps", "7"),))
    config = EvaluateConfig(
        ModelOptions(device="cpu"),
        ComputeOptions(),
        str(data),
        (Choice("saliency"),),
        (metric,),
        tmp_path / "run",
        limit=IMAGES,
    )
    measurements: list[tuple[int, float]] = []
    failed = list(evaluate(config, lambda done, total: measurements.append((done, resident_mebibytes()))))
    assert not failed
    assert measurements[-1][0] == IMAGES

    def mean_of_quarter(k: int) -> float:
        return float(np.mean([size for done, size in measurements if k * IMAGES / 4 < done <= (k + 1) * IMAGES / 4]))

    sizes = [mean_of_quarter(k) for k in range(4)]
    print("\nresident MiB by quarter of the images:", " ".join(f"{size:.0f}" for size in sizes))
    assert sizes[3] <= 1.05 * sizes[1]
