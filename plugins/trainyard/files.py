"""Files that appear whole or not at all, disks that run full, and one process at a time.

Shared by everything that keeps large files: downloads, prepared data sets, the object store.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from trainyard.errors import DatasetError, UnavailableError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done, bytes in all (0 when unknown)."""

CHUNK = 2**20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SPARE = 16 * 2**20
_LOCK_POLL_S = 0.2


def ignore_progress(doing: str, done: int, total: int) -> None:
    """Report to nobody."""


class VerifyingReader:
    """A stream that hashes what passes and refuses to give its last bytes when they are wrong.

    Whoever copies from it therefore cannot complete a copy of wrong or missing bytes.
    """

    def __init__(
        self,
        stream: BinaryIO,
        size_bytes: int,
        *,
        sha256: str = "",
        what: str = "",
        progress: Progress = ignore_progress,
        stop: Callable[[], BaseException | None] = lambda: None,
    ) -> None:
        """*sha256*: 64 hex digits, or empty for no digest; *stop*: why to give up, or None."""
        self._stream = stream
        self._size = size_bytes
        self._sha256 = sha256
        self._what = what
        self._progress = progress
        self._stop = stop
        self._hash = hashlib.sha256()
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes; raises ``DatasetError`` instead of the last, wrong ones."""
        failure = self._stop()
        if failure is not None:
            raise failure
        data = self._stream.read(size)
        self._done += len(data)
        if self._sha256:
            self._hash.update(data)
        if self._done < self._size and not data and size != 0:
            raise DatasetError(
                f"{self._what}: the source ended after {self._done} of {self._size} bytes; "
                "another process may be writing it. Run the step again"
            )
        if self._done >= self._size and self._sha256 and self._hash.hexdigest() != self._sha256:
            raise DatasetError(
                f"{self._what}: SHA-256 is {self._hash.hexdigest()}, expected {self._sha256}: the "
                "file changed since it was verified. Nothing was stored; run the step again"
            )
        self._progress(self._what, self._done, self._size)
        return data


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, reading it once."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path, needed: int, doing: str) -> Iterator[None]:
    """Turn a full disk, a quota or a file size limit below into an error that says what to free."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise no_room(path, needed, doing, error.strerror or "") from error


def need_room(path: Path, needed: int, doing: str) -> None:
    """Raise before anything is written when the file system of *path* lacks *needed* bytes."""
    if shutil.disk_usage(_existing(path)).free < needed:
        raise no_room(path, needed, doing, "checked before writing")


def no_room(path: Path, needed: int, doing: str, why: str) -> UnavailableError:
    """Return the error for a full disk: path, bytes needed and free, what to do."""
    home = _existing(path)
    free = shutil.disk_usage(home).free
    short = max(needed - free, 0)
    return UnavailableError(
        f"no room for {doing}: {path} needs {needed:,} bytes, {free:,} are free ({why}). "
        f"Free {short + _SPARE:,} bytes on the file system of {home} (old downloads, prepared data "
        "and runs are safe to delete), raise the quota or file size limit, or point downloads_dir "
        "or the site's data folder elsewhere; nothing incomplete was left in use"
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def reserve(stream: BinaryIO, size_bytes: int) -> None:
    """Take the blocks of a file at once, so that a full disk shows before the work is done.

    Raises ``OSError`` (ENOSPC and its like), which ``disk_errors`` explains.
    """
    if size_bytes:
        os.posix_fallocate(stream.fileno(), 0, size_bytes)


def fsync_path(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replace *path* by *text* in one step: a reader sees the old or the new file, never half."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(lock: Path, doing: str, *, wait_s: float = 3600.0) -> Iterator[None]:
    """Hold *lock* (created when missing) while the block runs; wait for another holder.

    The lock belongs to the open file, so the end of a process, however violent, frees it. Raises
    ``UnavailableError`` naming the holder after *wait_s* seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as stream:
        deadline = time.monotonic() + wait_s
        while not _try_lock(stream.fileno()):
            if time.monotonic() > deadline:
                stream.seek(0)
                raise UnavailableError(
                    f"{doing}: process {stream.read().strip() or '?'} holds {lock} for more than "
                    f"{wait_s:.0f} s. Wait for it or end it, then try again"
                )
            time.sleep(_LOCK_POLL_S)
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {os.uname().nodename}")
        stream.flush()
        yield


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
