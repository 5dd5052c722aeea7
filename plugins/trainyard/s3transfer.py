"""Reading one object into a file: in chunks, resumed by range, verified by digest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import urllib3

from trainyard.errors import DatasetError, UnavailableError
from trainyard.files import CHUNK, Progress, disk_errors

_ATTEMPTS = 4
_PAUSE_S = 0.3


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
    hashed = _prefix(path, size_bytes)
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
    if hashed.hexdigest() != sha256:
        path.unlink()
        raise _damaged(key, hashed.hexdigest(), sha256)


def _damaged(key: str, found: str, expected: str) -> DatasetError:
    return DatasetError(
        f"object {key}: SHA-256 is {found}, expected {expected}: the stored object or the transfer "
        "is damaged. The copy was removed; remove the object from the bucket and fetch the data "
        "set again if it happens twice"
    )


def _prefix(path: Path, size_bytes: int) -> Any:
    """Return the hash of what an earlier attempt left in *path*, or start *path* empty."""
    hashed = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size <= size_bytes:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                hashed.update(chunk)
    else:
        path.write_bytes(b"")
    return hashed


def _pour(
    response: Any,
    path: Path,
    hashed: Any,
    done: int,
    size_bytes: int,
    key: str,
    progress: Progress,
) -> int:
    """Append the response to *path* and return the new length; hash exactly what was written."""
    try:
        with (
            disk_errors(path, size_bytes - done, f"the copy of {key}"),
            path.open("ab", buffering=0) as target,
        ):
            # read1 hands over what is there: a silence loses nothing that came before it.
            while chunk := response.read1(CHUNK):
                if done + len(chunk) > size_bytes:
                    raise DatasetError(
                        f"object {key}: more than the expected {size_bytes} bytes; the object is "
                        "damaged. Remove it from the bucket and fetch the data set again"
                    )
                _write_all(target, chunk)
                hashed.update(chunk)
                done += len(chunk)
                progress(f"read {key}", done, size_bytes)
    finally:
        response.close()
        response.release_conn()
    return done


def _write_all(target: Any, chunk: bytes) -> None:
    """Write all of *chunk*: an unbuffered write may take a part of it on a nearly full disk."""
    view = memoryview(chunk)
    while view:
        view = view[target.write(view) :]
