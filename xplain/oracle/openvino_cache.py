"""Keep converted graphs on disk, and how fast they are, because the conversion and the measurement take seconds."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError, emit_note
from xplain.core.files import write_file

DIGEST_BYTES, LENGTH_BYTES = 32, 8
MAX_BYTES = 4 << 30  # of all files; those that were used last are kept
SUFFIX = ".graph"
GAIN_SUFFIX = ".gain"
log = logging.getLogger("xplain")


def cache_folder() -> Path:
    """Return the folder of converted graphs: below XDG_CACHE_HOME, or below .cache in the home directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~"), ".cache")) / "xplain" / "engines"  # noqa: PTH111


def load_graph(openvino: Any, core: Any, key: str) -> Any:
    """Return the stored graph of a key, or None. Emit a note if its file is damaged, which is then deleted."""
    path = cache_folder() / f"{key}{SUFFIX}"
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() == digest:
        length = int.from_bytes(body[:LENGTH_BYTES], "little")
        xml, weights = body[LENGTH_BYTES : LENGTH_BYTES + length], body[LENGTH_BYTES + length :]
        with suppress(RuntimeError), suppress(OSError):
            graph = core.read_model(xml, _to_tensor(openvino, weights))
            os.utime(path)
            return graph
    emit_note(f"the file {str(path)!r} is damaged; the model is converted again")
    discard_graph(key)
    return None


def _to_tensor(openvino: Any, content: bytes) -> Any:
    import numpy as np

    return openvino.Tensor(np.frombuffer(content, dtype=np.uint8))


def save_graph(openvino: Any, graph: Any, key: str) -> None:
    """Store a graph, and delete the files that were not used for longest. A folder that cannot be written is ignored."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            xml, weights = Path(temporary, "graph.xml"), Path(temporary, "graph.bin")
            openvino.serialize(graph, xml, weights)
            text = xml.read_bytes()
            body = len(text).to_bytes(LENGTH_BYTES, "little") + text + weights.read_bytes()
        write_file(folder / f"{key}{SUFFIX}", hashlib.sha256(body).digest() + body)
        _delete_old_files(folder)
    except (OSError, RuntimeError, InputError) as error:
        log.debug("the converted model is not stored: %s", error)


def _delete_old_files(folder: Path) -> None:
    """Delete the files that were not used for longest until the others have at most MAX_BYTES."""
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob(f"*{SUFFIX}")]
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)


def discard_graph(key: str) -> None:
    """Delete the stored graph of a key."""
    with suppress(OSError):
        (cache_folder() / f"{key}{SUFFIX}").unlink(missing_ok=True)


def load_gain(key: str) -> float | None:
    """Return the stored gain of a key, or None if there is none that can be read."""
    try:
        gain = float((cache_folder() / f"{key}{GAIN_SUFFIX}").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return gain if gain > 0 else None


def save_gain(key: str, gain: float) -> None:
    """Store how many times as fast as PyTorch a graph is. A folder that cannot be written is ignored."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{key}{GAIN_SUFFIX}", f"{gain!r}\n".encode())
    except (OSError, InputError) as error:
        log.debug("the speed of the model is not stored: %s", error)
