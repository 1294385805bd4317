"""Distances between classes that the user made, such as those of WordNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import InputError
from xplain.core.files import DAMAGED
from xplain.data.npy_format import read_npy_data, read_npy_header


def read_class_distances(path: str, classes: int) -> Floats:
    """Read a matrix (classes, classes) of distances, from class ``row`` to class ``column``, in the order of the model's outputs.

    path: an NPY file, or text with a line per class and commas between the numbers.
    Raises InputError if the file cannot be read, has another shape, or has numbers that are negative or not finite.
    """
    try:
        if Path(path).suffix.lower() == ".npy":
            with Path(path).open("rb") as stream:
                matrix = read_npy_data(stream, read_npy_header(stream)).astype(np.float64)
        else:
            matrix = np.loadtxt(path, delimiter=",", ndmin=2)
    except DAMAGED as error:
        raise InputError(
            f"cannot read the distances {path!r}: {error}", "use an .npy file, or lines of numbers with commas"
        ) from None
    if matrix.shape != (classes, classes):
        raise InputError(
            f"the distances {path!r} have the shape {matrix.shape}, but the model has {classes} classes",
            f"use a file with {classes} x {classes} numbers",
        )
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise InputError(f"the distances {path!r} are not finite or negative", "use numbers >= 0")
    return matrix
