"""Files that are whole under their final name, or not there; and folders that one process at a time writes."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of file systems without hard links


def cannot_write(path: Path | str, error: OSError) -> InputError:
    """The error of a place that cannot be written, with the way out that fits its cause."""
    way = "choose another --output"
    if error.errno in FULL:
        way = "what is written is whole; make room and run the same command again"
    elif error.errno == errno.ENAMETOOLONG:
        way = "give the file a shorter name"
    return InputError(f"cannot write {str(path)!r}: {error.strerror}", way)


def write_file(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write by rename, making the folder. Raises InputError when the place cannot be written.

    replace: without it a file that is there stays as it is, and the answer is False.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(name).chmod(0o666 & ~_umask())
            return _name(Path(name), path, replace)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def _name(written: Path, path: Path, replace: bool) -> bool:
    """Give a whole file its final name; False where that is taken and may not be replaced."""
    if not replace:
        try:
            path.hardlink_to(written)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
    written.replace(path)
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write text by rename. Bytes of a file name that are no UTF-8 become escapes."""
    write_file(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON by rename."""
    write_text(path, to_json(content, indent=1) + "\n")


@contextmanager
def lock_directory(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Make a folder, and hold it against other processes that ask for it, until the block or the process ends.

    wait: for the process that has it. Raises InputError when another has it, or when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    handle = -1
    with suppress(OSError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
    try:
        if handle >= 0 and not lock_file(handle, wait=wait):
            raise InputError(
                f"another process is writing into {str(folder)!r}", "wait for it, or give another --output"
            )
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def lock_file(handle: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed or the process ends; false when another has it. Systems without flock: true."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no locks
        return True
    return True


def printable(text: str) -> str:
    """The text with what cannot be printed (control characters, bytes of a file name that are no UTF-8) as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: bytes of a file name that are no UTF-8 become JSON's own escapes, and come back from them."""
    return json.dumps(content, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode()
