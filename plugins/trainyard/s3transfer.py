"""Reading one object into a file: in chunks, resumed by range, verified by digest.

The digest is computed by a thread of its own while the next bytes are on their way: hashing takes
as long as a fast network, and both let go of the interpreter.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import urllib3

from trainyard.errors import DatasetError, UnavailableError
from trainyard.files import CHUNK, Progress, disk_errors

PART_BYTES = 8 * 2**20
"""Multipart part size up to 80 GB; S3 allows 10,000 parts, so larger objects need larger parts."""
PARALLEL_PARTS = 3
"""Parts in flight; one more is being read, so about four parts are in memory at a time."""
_MOST_PARTS = 10_000


_ATTEMPTS = 4
_AHEAD = 32
"""Chunks that may wait to be hashed: at most 32 MiB."""
_PAUSE_S = 0.3


def part_size(size_bytes: int) -> int:
    """Return the part size in bytes for an object: ``PART_BYTES`` until 10,000 parts are reached.

    Grows in steps of 1 MiB above 80 GB; 5 TiB, the largest object of S3, takes 525 MiB.
    """
    least = -(-size_bytes // _MOST_PARTS)
    step = 2**20
    return max(PART_BYTES, -(-least // step) * step)


def parallel_parts(size_bytes: int) -> int:
    """Return how many parts may be in flight so that memory stays near 128 MiB while it can."""
    return max(1, min(PARALLEL_PARTS, 96 * 2**20 // part_size(size_bytes)))


class _HashAhead:
    """A SHA-256 that is computed beside whoever hands over the bytes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._work, name="hash", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            self._hash.update(chunk)

    def update(self, chunk: bytes) -> None:
        """Hash *chunk* after those before it; waits when too many are waiting."""
        self._waiting.put(chunk)

    def close(self) -> None:
        """Hash what is left and end the thread; harmless a second time."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def hexdigest(self) -> str:
        """Return the digest of everything; nothing can follow."""
        self.close()
        return self._hash.hexdigest()


def download(
    open_range: Callable[[str, int], Any],
    key: str,
    path: Path,
    *,
    size_bytes: int,
    sha256: str,
    progress: Progress,
    asking: Callable[[str], AbstractContextManager[Any]],
) -> None:
    """Write *key* to *path* through ``open_range(key, offset)``, resuming what *path* holds.

    A broken connection is taken up again where it broke, at most three times in a row without a
    byte gained. Raises as ``ObjectStore.get_to_file`` says.
    """
    with closing(_HashAhead()) as hashed:
        _fetch(open_range, key, path, size_bytes, progress, asking, hashed)
        found = hashed.hexdigest()
    if found != sha256:
        path.unlink()
        raise _damaged(key, found, sha256)


def _fetch(
    open_range: Callable[[str, int], Any],
    key: str,
    path: Path,
    size_bytes: int,
    progress: Progress,
    asking: Callable[[str], AbstractContextManager[Any]],
    hashed: _HashAhead,
) -> None:
    """Bring *path* to *size_bytes*, and everything that is in it through *hashed*."""
    _prefix(path, size_bytes, hashed)
    done = path.stat().st_size
    barren = 0
    while done < size_bytes:
        before = done
        try:
            with asking(f"reading {key} from byte {done}"):
                done = _pour(open_range(key, done), path, hashed, done, size_bytes, key, progress)
        except UnavailableError as error:
            done = path.stat().st_size
            barren = 0 if done > before else barren + 1
            if barren >= _ATTEMPTS - 1 or not isinstance(
                error.__cause__, urllib3.exceptions.HTTPError
            ):
                raise
            time.sleep(_PAUSE_S * 2**barren)
        else:
            barren = 0 if done > before else barren + 1
            if barren >= _ATTEMPTS - 1:
                raise DatasetError(
                    f"object {key}: the store ends it after {done} of {size_bytes} bytes; the "
                    "object is damaged. Remove it from the bucket and fetch the data set again"
                )


def _damaged(key: str, found: str, expected: str) -> DatasetError:
    return DatasetError(
        f"object {key}: SHA-256 is {found}, expected {expected}: the stored object or the transfer "
        "is damaged. The copy was removed; remove the object from the bucket and fetch the data "
        "set again if it happens twice"
    )


def _prefix(path: Path, size_bytes: int, hashed: _HashAhead) -> None:
    """Hash what an earlier attempt left in *path*, or start *path* empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size <= size_bytes:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                hashed.update(chunk)
    else:
        path.write_bytes(b"")


def _pour(
    response: Any,
    path: Path,
    hashed: _HashAhead,
    done: int,
    size_bytes: int,
    key: str,
    progress: Progress,
) -> int:
    """Append the response to *path* and return the new length; hash exactly what was written."""
    try:
        with (
            disk_errors(path, size_bytes - done, f"the copy of {key}"),
            # Whole mebibytes at a time: the page cache then keeps the file in large pieces, and
            # whoever maps it later reads it an eighth faster. What came is written in any case.
            path.open("ab", buffering=CHUNK) as target,
        ):
            # read1 hands over what is there: a silence loses nothing that came before it.
            while chunk := response.read1(CHUNK):
                if done + len(chunk) > size_bytes:
                    raise DatasetError(
                        f"object {key}: more than the expected {size_bytes} bytes; the object is "
                        "damaged. Remove it from the bucket and fetch the data set again"
                    )
                target.write(chunk)
                hashed.update(chunk)
                done += len(chunk)
                progress(f"read {key}", done, size_bytes)
    finally:
        response.close()
        response.release_conn()
    return done
