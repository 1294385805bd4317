"""Sample photographs at a small size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.conftest import SAMPLES


def read_photograph(name: str) -> np.ndarray:
    """Return a sample photograph (24, 32, 3) in 8 bits."""
    with Image.open(SAMPLES / f"{name}.jpg") as image:
        return np.asarray(image.convert("RGB").resize((32, 24), Image.Resampling.BILINEAR))


PHOTOGRAPHS = [read_photograph("cat"), read_photograph("rocket"), read_photograph("espresso")]
