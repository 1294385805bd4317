"""Tests of xplain.core.allocator.

They record the calls to the C library. Resident memory is not measured, because it depends on earlier heap fragmentation.
"""

from __future__ import annotations

import pytest

from xplain.core import allocator

RETAIN, DEFAULT, TRIM = "retain", "default", "trim"


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The calls to the C library, in order."""
    calls: list[str] = []
    names = {allocator._RETAIN: RETAIN, allocator._DEFAULT: DEFAULT}
    monkeypatch.setattr(allocator, "_configure", lambda options: calls.append(names[options]))
    monkeypatch.setattr(allocator, "release_memory", lambda: calls.append(TRIM))
    monkeypatch.setattr(allocator, "_depth", 0)
    return calls


def test_only_outermost_block_configures(calls):
    with allocator.retain_freed_memory():
        assert calls == [RETAIN]
        with allocator.retain_freed_memory():
            pass
        assert calls == [RETAIN]
    assert calls == [RETAIN, DEFAULT, TRIM]


def test_retain_restores_after_error(calls):
    with pytest.raises(ZeroDivisionError), allocator.retain_freed_memory():
        raise ZeroDivisionError
    assert calls == [RETAIN, DEFAULT, TRIM]


def test_default_allocator_inside_retain(calls):
    with allocator.default_allocator():
        assert calls == []
    with allocator.retain_freed_memory():
        with allocator.default_allocator():
            assert calls == [RETAIN, DEFAULT, TRIM]
        assert calls == [RETAIN, DEFAULT, TRIM, RETAIN]
    assert calls == [RETAIN, DEFAULT, TRIM, RETAIN, DEFAULT, TRIM]


@pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")
def test_glibc_accepts_every_setting():
    glibc = allocator._glibc()
    assert glibc is not None
    assert [glibc.mallopt(name, value) for name, value in (*allocator._RETAIN, *allocator._DEFAULT)] == [1] * 7
