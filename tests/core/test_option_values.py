"""Tests of xplain.core.option_values."""

from __future__ import annotations

import pytest

from xplain.core.errors import UsageError
from xplain.core.option_values import parse_batch_size, parse_clip, parse_count, parse_shard


@pytest.mark.parametrize(("text", "rows"), [("auto", None), ("1", 1), ("128", 128)])
def test_parse_batch_size(text, rows):
    assert parse_batch_size(text) == rows


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "many", "Auto", "None"])
def test_parse_batch_size_rejects_other_text(text):
    with pytest.raises(UsageError) as error:
        parse_batch_size(text)
    assert str(error.value) == f"invalid batch size {text!r}; use auto or a positive integer"


@pytest.mark.parametrize(
    ("text", "clip"), [("80,99", (80.0, 99.0)), ("0,100", (0.0, 100.0)), (" 1.5 , 2 ", (1.5, 2.0))]
)
def test_parse_clip(text, clip):
    assert parse_clip(text) == clip


@pytest.mark.parametrize("text", ["80", "80,", "80,90,99", "a,b", ""])
def test_parse_clip_rejects_other_text(text):
    with pytest.raises(UsageError, match=f"invalid clip '{text}'"):
        parse_clip(text)


@pytest.mark.parametrize("text", ["99,80", "80,80", "-1,50", "50,101", "nan,50", "0,nan", "0,inf"])
def test_parse_clip_rejects_invalid_range(text):
    with pytest.raises(UsageError, match="the percentiles must satisfy 0 <= LOW < HIGH <= 100"):
        parse_clip(text)


@pytest.mark.parametrize(("text", "shard"), [("0/1", (0, 1)), ("2/3", (2, 3))])
def test_parse_shard(text, shard):
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "1", "1/1", "-1/2", "0/0", "0/", "/2", "a/b", "0/1/2", "1.0/2"])
def test_parse_shard_rejects_other_text(text):
    with pytest.raises(UsageError) as error:
        parse_shard(text)
    assert str(error.value) == f"invalid shard {text!r}; use I/N with 0 <= I < N"


def test_parse_count_rejects_many_digits():
    """int() refuses texts of thousands of digits with an error of its own."""
    assert parse_count("9" * 19) == int("9" * 19)
    assert parse_count("9" * 20) is None
    assert parse_count("9" * 5000) is None
