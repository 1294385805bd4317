"""Memory: kept while the engine works, given back afterwards, by the outermost and whatever happens.

What the C library is told is counted; what stays resident hangs on the holes that earlier work left in the heap.
"""

from __future__ import annotations

import pytest

from xplain.core import allocator as memory

KEEP, BACK, TRIM = "keep", "give back", "trim"


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What the C library was told, in order."""
    said: list[str] = []
    names = {memory._KEEP: KEEP, memory._GIVE_BACK: BACK}
    monkeypatch.setattr(memory, "_set", lambda options: said.append(names[options]))
    monkeypatch.setattr(memory, "release_memory", lambda: said.append(TRIM))
    monkeypatch.setattr(memory, "_depth", 0)
    return said


def test_the_outermost_keeps_and_gives_back(told):
    with memory.retain_freed_memory():
        assert told == [KEEP]
        with memory.retain_freed_memory():
            pass
        assert told == [KEEP]
    assert told == [KEEP, BACK, TRIM]


def test_memory_goes_back_after_an_error(told):
    with pytest.raises(ZeroDivisionError), memory.retain_freed_memory():
        raise ZeroDivisionError
    assert told == [KEEP, BACK, TRIM]


def test_inside_memory_can_be_given_back_for_a_while(told):
    with memory.default_allocator():
        assert told == []
    with memory.retain_freed_memory():
        with memory.default_allocator():
            assert told == [KEEP, BACK, TRIM]
        assert told == [KEEP, BACK, TRIM, KEEP]
    assert told == [KEEP, BACK, TRIM, KEEP, BACK, TRIM]


@pytest.mark.skipif(memory._library() is None, reason="the C library is not glibc")
def test_the_c_library_accepts_every_setting():
    library = memory._library()
    assert library is not None
    assert [library.mallopt(name, value) for name, value in (*memory._KEEP, *memory._GIVE_BACK)] == [1] * 7
