"""Images are read ahead by several threads, in order, and not further ahead than necessary."""

import io
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from xplain.core import threads as cpu_threads
from xplain.core.errors import Failure
from xplain.data import loading, prefetch
from xplain.data.prefetch import prefetch_images
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource

PREPROCESSING = Preprocessing.for_size(8)


def make_sources(count: int) -> list[ImageSource]:
    """Return images in memory whose pixels are all their number; number 3 is no image."""
    sources = []
    for k in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (12, 10), (k, k, k)).save(stream, "PNG")
        sources.append(ImageSource(None, str(k), "", b"nothing" if k == 3 else stream.getvalue()))
    return sources


class Reads:
    """Counts reads: how many started, and how many ran at the same time at most."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.started = self.running = self.most = 0
        self.seconds, self.lock, self.read = seconds, threading.Lock(), loading.read_model_input

    def __call__(self, *arguments):
        with self.lock:
            self.started += 1
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        with self.lock:
            self.running -= 1
        return self.read(*arguments)


@pytest.fixture
def reads(monkeypatch) -> Reads:
    counter = Reads(0.01)
    monkeypatch.setattr(loading, "read_model_input", counter)
    return counter


@pytest.mark.parametrize("size", [1, 3, 20])
def test_groups_are_in_order(size):
    groups = list(prefetch_images(make_sources(10), PREPROCESSING, size))
    assert [len(group) for group in groups] == [min(size, 10 - start) for start in range(0, 10, size)]
    for k, result in enumerate(image for group in groups for image in group):
        if k == 3:
            assert isinstance(result, Failure)
            assert "is not an image" in str(result.error)
        else:
            assert not isinstance(result, Failure)
            assert round(float(result.pixels.mean()) * 255) == k


def test_no_images_give_no_group():
    assert list(prefetch_images([], PREPROCESSING, 3)) == []


@pytest.mark.parametrize(("size", "threads", "groups"), [(2, 4, 4), (8, 4, 1), (1, 2, 4), (16, 2, 1)])
def test_reads_a_bounded_number_ahead(reads, size, threads, groups):
    """The current group, and at least one more with two images per thread, even if the caller is slow."""
    images = prefetch_images(make_sources(60), PREPROCESSING, size, threads)
    next(images)
    time.sleep(0.2)
    assert reads.started == (1 + groups) * size
    next(images)
    time.sleep(0.2)
    assert reads.started == (2 + groups) * size
    images.close()


def test_threads_read_at_the_same_time(reads):
    reads.seconds = 0.05
    groups = prefetch_images(make_sources(24), PREPROCESSING, 2, threads=6)
    assert sum(len(group) for group in groups) == 24
    assert reads.most == 6


@pytest.mark.parametrize(("cores", "expected"), [(1, 4), (16, 16), (64, 32)])
def test_number_of_threads(monkeypatch, reads, cores, expected):
    monkeypatch.setattr(prefetch, "count_usable_cpus", lambda: cores)
    reads.seconds = 0.15
    count = expected + 4
    list(prefetch_images(make_sources(count), PREPROCESSING, count))
    assert reads.most == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.5, 2), (0.5, 1), (12.0, 8)])
def test_usable_cpus_are_those_of_the_affinity_and_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(cpu_threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpu_threads, "read_cpu_quota", lambda root=Path("/"): quota)
    assert cpu_threads.count_usable_cpus() == expected
