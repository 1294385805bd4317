"""Fixtures of the contract tests."""

from collections.abc import Iterator

import pytest
from torch import Tensor

from xplain.methods import xrai


@pytest.fixture(autouse=True, scope="package")
def cached_regions() -> Iterator[None]:
    """Cache XRAI's regions per image: they depend on the image only and take a second to compute."""
    original, cache = xrai.find_regions, {}

    def find_regions(x: Tensor) -> list[Tensor]:
        keys = [(image.dtype, image.shape, image.detach().contiguous().numpy().tobytes()) for image in x]
        for key, image in zip(keys, x, strict=True):
            if key not in cache:
                (cache[key],) = original(image[None])
        return [cache[key] for key in keys]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xrai, "find_regions", find_regions)
        yield
