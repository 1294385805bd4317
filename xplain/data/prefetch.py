"""Read images ahead of the caller, in one thread per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from xplain.core.errors import Failure, XplainError
from xplain.core.threads import count_usable_cpus
from xplain.data.loading import LoadedImage, load_image
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource

MIN_READERS, MAX_READERS = 4, 32  # threads; a few more than cores hide the latency of the disk


def prefetch_images(
    sources: Iterable[ImageSource], preprocessing: Preprocessing, size: int, threads: int | None = None
) -> Iterator[list[LoadedImage | Failure]]:
    """Yield groups of ``size`` images in order. Threads read the next groups while the caller processes the current one.

    At least one group is read ahead, and at least two images per thread, so that no thread waits while the caller computes.
    threads: their number; default: the number of usable cores, between MIN_READERS and MAX_READERS.
    """
    threads = threads or min(max(count_usable_cpus(), MIN_READERS), MAX_READERS)
    ahead = max(-(-2 * threads // size), 1)

    def read(source: ImageSource) -> LoadedImage | Failure:
        try:
            return load_image(source, preprocessing)
        except XplainError as error:
            return Failure(source.name, error)

    remaining = iter(sources)
    groups = deque[list[Future[LoadedImage | Failure]]]()
    with ThreadPoolExecutor(threads) as pool:

        def submit_group() -> None:
            group = [pool.submit(read, source) for source in islice(remaining, size)]
            if group:
                groups.append(group)

        try:
            for _ in range(ahead):
                submit_group()
            while groups:
                current = groups.popleft()
                submit_group()
                yield [future.result() for future in current]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
