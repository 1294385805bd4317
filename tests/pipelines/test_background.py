"""Tests of xplain.pipelines.background."""

import threading
from functools import partial

import pytest

from xplain.pipelines.background import MAX_PENDING, Deferred, run_in_background


def test_background_computes_items_while_working():
    """The first work ends only when the second item has been computed; without a thread it would wait until its timeout."""
    second = threading.Event()

    def items():
        yield Deferred(lambda: second.wait(60))
        second.set()
        yield 2
        yield Deferred(lambda: 3)

    assert list(run_in_background(items())) == [True, 2, 3]


def test_background_yields_finished_items_immediately():
    computed = []

    def items():
        for k in range(3):
            computed.append(k)
            yield k

    results = run_in_background(items())
    assert (next(results), computed) == (0, [0])


def test_background_works_in_one_thread():
    threads, done = set(), []

    def work(k):
        threads.add(threading.current_thread())
        done.append(k)
        return k

    assert list(run_in_background(Deferred(partial(work, k)) for k in range(20))) == list(range(20)) == done
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_background_limits_pending_results():
    go, computed = threading.Event(), []

    def items():
        for k in range(MAX_PENDING + 3):
            if k > MAX_PENDING:
                go.set()  # reached only when the caller has requested more than the first result
            computed.append(k)
            yield Deferred(lambda k=k: go.wait(60) and k)

    threading.Timer(0.2, go.set).start()
    results = run_in_background(items())
    assert next(results) == 0
    assert computed == list(range(MAX_PENDING + 1))
    assert list(results) == list(range(1, MAX_PENDING + 3))


@pytest.mark.parametrize("where", ["item", "work"])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no")])
def test_background_raises_after_earlier_results(where, error):
    def fail():
        raise error

    def items():
        yield Deferred(lambda: 1)
        yield Deferred(lambda: 2)
        if where == "item":
            fail()
        yield Deferred(fail)
        yield 3  # not yielded after the error

    results = run_in_background(items())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(type(error), match="no"):
        next(results)


def test_background_finishes_submitted_work_when_closed():
    done = []
    results = run_in_background(Deferred(lambda k=k: done.append(k)) for k in range(2))
    next(results)
    results.close()
    assert done in ([0], [0, 1])
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("ThreadPool") for thread in threading.enumerate()
    )
