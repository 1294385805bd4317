"""Finding the logits in outputs of all shapes and structures."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from xplain.core.errors import InputError, UsageError
from xplain.models.logits import find_logits

Z = torch.arange(6.0).reshape(2, 3)
Pair = namedtuple("Pair", ["features", "logits"])


@dataclass
class Output:
    loss: Tensor | None
    scores: Tensor


@pytest.mark.parametrize(
    ("output", "rows", "classes", "expected"),
    [
        (Z, 2, None, Z),
        (Z[:, :, None, None], 2, 3, Z),
        (Z[:, 0], 2, None, Z[:, :1]),
        (Z[:, :1, None, None], 2, 1, Z[:, :1]),
        (Z[0], 1, 3, Z[:1]),
        (Z[0, 1], 1, 1, Z[:1, 1:2]),
        (Z[0, :1], 1, None, Z[:1, :1]),
        (Z[:, 0], None, 1, Z[:, :1]),
        (Z[0], None, 3, Z[:1]),
        (Z, None, 3, Z),
    ],
)
def test_find_logits_shapes(output, rows, classes, expected):
    logits, entry = find_logits(output, rows, classes)
    assert torch.equal(logits, expected)
    assert entry == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_find_logits_converts_half_precision(dtype):
    logits, _ = find_logits(Z.to(dtype), 2)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, Z)


@pytest.mark.parametrize(
    ("output", "entry"),
    [
        ((Z, Z[:, :2]), "0"),
        ([torch.ones(2, 3, 4, 4), Z], "1"),
        ({"out": Z}, "out"),
        (OrderedDict(hidden=Z * 2, logits=Z), "logits"),
        (Pair(Z * 2, Z), "logits"),
        (Output(None, Z), "scores"),
        ((torch.tensor(1.0), Z), "1"),
        ({"heads": {"main": Z, "count": 3}}, "heads.main"),
    ],
)
def test_find_logits_in_structures(output, entry):
    logits, found = find_logits(output, 2)
    assert torch.equal(logits, Z)
    assert found == entry


@pytest.mark.parametrize(
    ("output", "entry"),
    [
        ((Z * 2, Z), "1"),
        ((Z * 2, Z), "-1"),
        ({"age": Z[:, 0], "sex": Z}, "sex"),
        ({"heads": {"age": Z[:, 0], "sex": Z}}, "heads.sex"),
        (Pair(Z * 2, Z), "1"),
        ({0: Z[:, :1], 1: Z}, "1"),
    ],
)
def test_find_logits_by_name(output, entry):
    assert torch.equal(find_logits(output, 2, None, entry)[0], Z)


@pytest.mark.parametrize(
    ("output", "rows", "message"),
    [
        (Z[:, 0], 3, "the model returns (2,) for 3 images; return logits of shape (images, classes)"),
        (Z, 1, "the model returns (2, 3) for 1 image; return logits of shape (images, classes)"),
        (
            torch.zeros(2, 21, 8, 8),
            2,
            "the model returns (2, 21, 8, 8), a map of classes; reduce it to shape (images, classes), such as by the mean over a region",
        ),
        (
            Z.argmax(dim=1),
            2,
            "the model returns int64 values of shape (2,), not scores; return the scores from which it decides",
        ),
        (
            Z > 1,
            2,
            "the model returns bool values of shape (2, 3), not scores; return the scores from which it decides",
        ),
        (
            {"age": Z[:, :1], "sex": Z[:, :2], "embedding": Z, "map": torch.zeros(2, 3, 4, 4)},
            2,
            "the model returns age (B, 1), sex (B, 2) and embedding (B, 3); choose one, such as --logits embedding",
        ),
        (None, 2, "the model returned NoneType instead of logits of shape (images, classes); use an image classifier"),
        ([], 2, "the model returned list instead of logits of shape (images, classes); use an image classifier"),
    ],
)
def test_find_logits_refuses(output, rows, message):
    with pytest.raises(InputError) as error:
        find_logits(output, rows)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("output", "entry", "message"),
    [
        ({"age": Z, "sex": Z}, "sax", "the model's output has no entry 'sax'; did you mean 'sex'?"),
        ((Z, Z), "2", "the model's output has no entry '2'; use one of 0, 1"),
        (Z, "logits", "the model returns (2, 3), which has no entry 'logits'; remove --logits"),
    ],
)
def test_find_logits_unknown_name(output, entry, message):
    with pytest.raises(UsageError) as error:
        find_logits(output, 2, None, entry)
    assert str(error.value) == message


def test_find_logits_named_entry_of_other_shape():
    with pytest.raises(InputError) as error:
        find_logits({"map": torch.zeros(2, 3, 4, 4), "z": Z}, 2, None, "map")
    assert str(error.value).startswith("the model returns as output 'map' (2, 3, 4, 4), a map of classes")
