"""Write files atomically, lock directories, and format JSON and text for output."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError

DAMAGED = (  # errors of reading a damaged file
    OSError,
    EOFError,
    KeyError,
    ValueError,
    SyntaxError,
    RuntimeError,
    MemoryError,  # of a wrong length
    zipfile.BadZipFile,
    zlib.error,
)
FileState = tuple[int, int, int]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # errors of file systems without them


def write_error(path: Path | str, error: OSError) -> InputError:
    """Convert an OSError to an InputError whose hint fits the cause."""
    hint = "choose another --output"
    if error.errno in DISK_FULL:
        hint = "free disk space, then run the same command again to resume"
    elif error.errno == errno.ENAMETOOLONG:
        hint = "use a shorter file name"
    return InputError(f"cannot write {str(path)!r}: {error.strerror}", hint)


def write_file(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file atomically: to a temporary file, which is then renamed. Creates the folder.

    replace: overwrite an existing file. Returns False if ``replace`` is false and the file exists.
    Raises InputError if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            temporary.chmod(0o666 & ~_umask())
            return _rename(temporary, path, replace)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from None


def _rename(temporary: Path, path: Path, replace: bool) -> bool:
    """Give a complete file its final name. Returns False if that exists and ``replace`` is false."""
    if not replace:
        try:
            path.hardlink_to(temporary)  # unlike a rename, fails if the name exists
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
    temporary.replace(path)
    return True


def touch(paths: Iterable[Path]) -> None:
    """Set the time of existing files to now, so that make does not run the command again. Read-only files keep their time."""
    for path in paths:
        with suppress(OSError):
            os.utime(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Atomically write text as UTF-8. Bytes that are not valid UTF-8, as in some file names, are escaped."""
    write_file(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(path, to_json(content, indent=1) + "\n")


@contextmanager
def lock_directory(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Create a folder and lock it against other processes until the block or the process ends.

    wait: wait for the process that holds the lock.
    Raises InputError if another process holds the lock and ``wait`` is false, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
    handle = -1
    with suppress(OSError):  # Windows cannot open folders
        handle = os.open(folder, os.O_RDONLY)
    try:
        if handle >= 0 and not lock_file(handle, wait=wait):
            raise InputError(
                f"another process is writing to {str(folder)!r}", "wait for it to finish or use another --output"
            )
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def lock_file(handle: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed or the process ends. Returns False if another process holds the lock.

    Returns True without a lock if the system (Windows) or the file system has no locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def file_state(path: Path) -> FileState:
    """Return size, modification time and change time of a file, which tell whether it was written since. Raises OSError."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def printable(text: str) -> str:
    """Return a text with escapes for control characters and for bytes of a file name that are not UTF-8."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def to_json(content: Any, indent: int | None = None) -> str:
    """Return JSON that can be encoded as UTF-8: bytes of a file name that are not UTF-8 become JSON escapes."""
    return json.dumps(content, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode()
