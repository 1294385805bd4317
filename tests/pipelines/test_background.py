"""Work behind the caller: in order, at most so much at a time, and finished whatever ends it."""

import threading
from functools import partial

import pytest

from xplain.pipelines.background import MOST, Later, finish_behind


def test_results_come_in_order_while_the_next_are_made():
    """The first work ends only when the second item has been made: done at once, this would wait for ever."""
    second = threading.Event()

    def items():
        yield Later(lambda: second.wait(60))
        second.set()
        yield 2
        yield Later(lambda: 3)

    assert list(finish_behind(items())) == [True, 2, 3]


def test_what_needs_no_work_is_handed_on_at_once():
    made = []

    def items():
        for k in range(3):
            made.append(k)
            yield k

    found = finish_behind(items())
    assert (next(found), made) == (0, [0])


def test_one_thread_does_one_after_the_other():
    threads, done = set(), []

    def work(k):
        threads.add(threading.current_thread())
        done.append(k)
        return k

    assert list(finish_behind(Later(partial(work, k)) for k in range(20))) == list(range(20)) == done
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_at_most_so_many_wait():
    go, made = threading.Event(), []

    def items():
        for k in range(MOST + 3):
            if k > MOST:
                go.set()  # reached only when the caller has asked for more than the first
            made.append(k)
            yield Later(lambda k=k: go.wait(60) and k)

    threading.Timer(0.2, go.set).start()
    found = finish_behind(items())
    assert next(found) == 0
    assert made == list(range(MOST + 1))
    assert list(found) == list(range(1, MOST + 3))


@pytest.mark.parametrize("where", ["made", "done"])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no")])
def test_an_error_comes_after_what_was_before_it(where, error):
    def fail():
        raise error

    def items():
        yield Later(lambda: 1)
        yield Later(lambda: 2)
        if where == "made":
            fail()
        yield Later(fail)
        yield 3  # which nobody hears of

    found = finish_behind(items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(type(error), match="no"):
        next(found)


def test_what_was_begun_is_finished_when_the_caller_leaves():
    done = []
    found = finish_behind(Later(lambda k=k: done.append(k)) for k in range(2))
    next(found)
    found.close()
    assert done in ([0], [0, 1])
    assert threading.active_count() == 1 or not any(
        each.name.startswith("ThreadPool") for each in threading.enumerate()
    )
