"""One entry: a folder of plain files and, inside, the record that says what they must be."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainer.cache.copying import PLAIN_NAME, hash_file
from trainer.cache.errors import CacheError
from trainer.files import write_atomic

RECORD = ".entry.json"
_FORMAT = 1
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def check_key(key: str) -> str:
    """Return *key*, or raise ``CacheError`` when it could name anything but one folder."""
    if not _KEY.fullmatch(key):
        raise CacheError(
            f"cache key {key!r}: 1 to 160 of A-Z a-z 0-9 . _ - and a letter or digit first"
        )
    return key


class Health(StrEnum):
    """What a look at an entry found."""

    SOUND = "sound"
    ABSENT = "absent"
    SUSPECT = "suspect"
    """Sizes are right, but a file was touched or the machine restarted: read it to know."""
    DAMAGED = "damaged"


@dataclass(kw_only=True, slots=True, frozen=True)
class FileFact:
    """What one file must be."""

    size_bytes: int
    """Length."""
    mtime_ns: int
    """Moment of its last change when it was last known to be right."""
    sha256: str
    """64 hex digits."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Record:
    """What makes a folder an entry; written before the folder appears under its name."""

    files: Mapping[str, FileFact]
    """Facts by file name; there are no subfolders."""
    boot_id: str
    """Boot in which the files were last known to be right: nothing was synced to disk, so what a
    power cut left is read once before it is trusted."""
    source: str
    """Where the content came from, for people."""
    filled_at: float
    """Seconds since 1970 UTC."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(fact.size_bytes for fact in self.files.values())


@dataclass(kw_only=True, slots=True, frozen=True)
class Entry:
    """One entry as a listing shows it."""

    key: str
    """Its name."""
    size_bytes: int
    """Bytes of its files."""
    used_at: float
    """When it was last acquired, seconds since 1970 UTC."""
    pinned: bool
    """Never evicted."""
    in_use: bool
    """Somebody holds a lease."""
    source: str
    """Where it came from."""
    health: Health
    """Result of the cheap look."""


def boot_id() -> str:
    """Return the kernel's id of this boot; empty where it is hidden."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def describe(folder: Path, digests: Mapping[str, str], source: str) -> Record:
    """Return the record of the files in *folder*, whose *digests* were verified on the way.

    Makes the files read-only. Raises ``CacheError`` when the folder holds other names than those,
    or anything that is no plain file.
    """
    found = _plain_files(folder)
    if found is None or set(found) != set(digests):
        raise CacheError(
            f"{folder}: filled with {sorted(p.name for p in folder.iterdir())}, announced were "
            f"{sorted(digests)}; an entry holds plain files with plain names"
        )
    for name in found:
        (folder / name).chmod(0o444)
    facts = {
        name: FileFact(size_bytes=info.st_size, mtime_ns=info.st_mtime_ns, sha256=digests[name])
        for name, info in found.items()
    }
    return Record(files=facts, boot_id=boot_id(), source=source, filled_at=time.time())


def write_record(folder: Path, record: Record) -> None:
    """Put *record* into *folder* in one step."""
    text = json.dumps({"format": _FORMAT, **asdict(record)}, indent=1, sort_keys=True)
    write_atomic(folder / RECORD, text.encode())


def read_record(folder: Path) -> Record | None:
    """Return the record in *folder*; None when there is none that makes sense."""
    try:
        data: dict[str, Any] = json.loads((folder / RECORD).read_text())
        if data.pop("format") != _FORMAT:
            return None
        files = {name: FileFact(**fact) for name, fact in data.pop("files").items()}
        return Record(files=files, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def look(folder: Path) -> Health:
    """Look at an entry without reading its files: names, kinds, sizes, moments of change."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return Health.DAMAGED
    except FileNotFoundError:
        return Health.ABSENT
    record, found = read_record(folder), _plain_files(folder)
    if record is None or found is None or set(found) != set(record.files):
        return Health.DAMAGED
    if any(found[name].st_size != fact.size_bytes for name, fact in record.files.items()):
        return Health.DAMAGED
    touched = any(found[n].st_mtime_ns != fact.mtime_ns for n, fact in record.files.items())
    return Health.SUSPECT if touched or record.boot_id != boot_id() else Health.SOUND


def read_through(folder: Path) -> Health:
    """Read every byte of an entry; when all are right, renew its record. Never ``SUSPECT``."""
    health = look(folder)
    if health in {Health.ABSENT, Health.DAMAGED}:
        return health
    record = read_record(folder)
    try:
        if record is None or any(
            hash_file(folder / name) != fact.sha256 for name, fact in record.files.items()
        ):
            return Health.DAMAGED
        if health is Health.SUSPECT:
            digests = {name: fact.sha256 for name, fact in record.files.items()}
            write_record(folder, describe(folder, digests, record.source))
    except (OSError, CacheError):
        return Health.DAMAGED
    return Health.SOUND


def _plain_files(folder: Path) -> dict[str, os.stat_result] | None:
    """Return the files of *folder* but the record; None when anything else lies there."""
    found = {}
    try:
        with os.scandir(folder) as items:
            listed = list(items)
        for item in listed:
            if item.name == RECORD and item.is_file(follow_symlinks=False):
                continue
            if item.name.startswith(f".{RECORD}.") and item.is_file(follow_symlinks=False):
                continue  # a record whose writer died: it never became one
            info = item.stat(follow_symlinks=False)
            if not stat.S_ISREG(info.st_mode) or not PLAIN_NAME.fullmatch(item.name):
                return None
            found[item.name] = info
    except OSError:
        return None
    return found
