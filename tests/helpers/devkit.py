"""Write files like those of the ILSVRC development kits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.io import savemat


def write_meta(
    path: Path | BinaryIO, wnids: Mapping[int, str], field: str = "ILSVRC2012_ID", **options: object
) -> None:
    """Write a meta.mat that gives these numbers to wnids: one structure per class, with the fields that the kit has.

    options: of ``scipy.io.savemat``.
    """
    fields = (field, "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")
    synsets = np.zeros((len(wnids), 1), [(name, object) for name in fields])
    for i, (number, wnid) in enumerate(wnids.items()):
        synsets[i, 0] = (number, wnid, "kit fox, Vulpes macrotis", "small gray fox", 0, np.zeros((1, 0)), 0, 1300)
    savemat(path, {"synsets": synsets}, **options)
