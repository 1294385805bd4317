"""Read images ahead of the caller, in one thread per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from xplain.core.errors import Failure, XplainError
from xplain.core.files import FileState
from xplain.core.threads import count_usable_cpus
from xplain.data.images import read_model_input, sha256
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

MIN_READERS, MAX_READERS = 4, 32  # threads; a few more than cores hide the latency of the disk


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A preprocessed image.

    digest: SHA-256 of its file. pixels: (C, H, W) in [0, 1]. size: (height, width) of the upright file.
    state: of the file before it was read, or None if there is no file. stored, orientation: as in ``ModelInput``.
    """

    source: ImageSource
    digest: str
    pixels: Tensor
    size: tuple[int, int]
    state: FileState | None = None
    stored: dict[str, Any] | None = None
    orientation: int = 1


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
            state = source.state()
            content = source.read()
            result = read_model_input(content, source.name, preprocessing)
            return LoadedImage(
                source, sha256(content), result.pixels, result.size, state, result.stored, result.orientation
            )
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
