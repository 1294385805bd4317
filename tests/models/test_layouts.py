"""Layouts of outputs: reading them from text, and arranging outputs as maps."""

from __future__ import annotations

import pytest
import torch

from xplain.models.layouts import Layout, read_layout


def test_columns_and_suffix_are_arranged_as_map():
    tokens = torch.arange(2 * 9 * 3).reshape(2, 9, 3)
    layout = Layout("tokens", (2, 3), prefix=1, suffix=2, order="columns")
    mapped = layout.to_map(tokens)
    assert mapped.shape == (2, 3, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(mapped[:, :, row, column], tokens[:, 1 + 2 * column + row])
    assert layout.tokens == 9
    assert layout.fits((1, 9, 5))
    assert not layout.fits((1, 8, 5))
    assert not layout.fits((1, 9, 5, 5))


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("auto", None),
        ("14x14", Layout("tokens", (14, 14))),
        ("6x10+5", Layout("tokens", (6, 10), 5)),
        ("channels-first", Layout("channels-first")),
        ("channels-last", Layout("channels-last")),
    ],
)
def test_read_layout(text, layout):
    assert read_layout(text) == layout
    assert layout is None or str(layout) == text


@pytest.mark.parametrize(
    "text", ["", "14", "14x", "x14", "0x4", "14x14+", "14x14+x", "-1x2", "14x14+1+1", "last", "14 x 14"]
)
def test_unknown_layouts_are_refused(text):
    with pytest.raises(ValueError, match=f"^{text}$".replace("+", r"\+")):
        read_layout(text)


def test_unusual_layouts_are_described():
    assert str(Layout("tokens", (2, 3), 0, 1)) == "2x3 and 1 at the end"
    assert str(Layout("tokens", (2, 3), 1, order="columns")) == "2x3+1 column by column"
