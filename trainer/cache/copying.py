"""Copying files so that wrong bytes never count as a copy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from trainer.cache.errors import DamagedError

_CHUNK = 2**20
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,199}")
"""A file in an entry: no folder, nothing hidden."""


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, reading it once."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_verified(source: Path, folder: Path, digests: Mapping[str, str]) -> Mapping[str, str]:
    """Copy the files that *digests* names from *source* into *folder*, hashing what is written.

    Returns *digests*. Raises ``DamagedError`` naming the file whose bytes are others or whose name
    leads elsewhere, ``OSError`` for what the file systems refuse.
    """
    if strange := [name for name in digests if not PLAIN_NAME.fullmatch(name)]:
        raise DamagedError(f"{source}: names {strange!r} as its file; it is no prepared data set")
    for name, expected in digests.items():
        hashed = hashlib.sha256()
        with (source / name).open("rb", 0) as given, (folder / name).open("wb", 0) as taken:
            while chunk := given.read(_CHUNK):
                hashed.update(chunk)
                view = memoryview(chunk)
                while view:  # a nearly full disk takes a part of it
                    view = view[taken.write(view) :]
        if hashed.hexdigest() != expected:
            raise DamagedError(
                f"{source / name}: SHA-256 is {hashed.hexdigest()}, expected {expected}. The "
                "source is damaged; prepare the data set again"
            )
    return digests
