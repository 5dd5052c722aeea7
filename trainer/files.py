"""Files that appear complete or not at all, also after a crash or a full disk."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write *data* to *path* in one step: temp file, fsync, ``os.replace``, fsync of the folder.

    A reader sees the old content or the new, never a part. Raises ``OSError`` (disk full, say)
    and leaves no temp file behind.
    """
    partial = _partial(path, data)
    try:
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_exclusive(path: Path, data: bytes) -> bool:
    """Write *data* to *path* in one step unless it exists; return whether this call made it.

    Exclusive also among processes: of several writers exactly one succeeds.
    """
    partial = _partial(path, data)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _partial(path: Path, data: bytes) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
