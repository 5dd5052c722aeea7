"""How much a cache holds and whom it gives up: sums, left-overs, eviction. Under one lock."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.cache.entry import Entry, look, read_record
from trainer.cache.errors import CacheFullError
from trainer.cache.limit import Limit
from trainer.cache.locks import Lock, held

_PATIENCE_S = 60.0


class Room:
    """The folders of one cache and the space in them."""

    def __init__(self, root: Path, limit: Limit) -> None:
        """Name the folders below *root*; ``make`` creates them."""
        self.root = root
        self._limit = limit
        self.entries, self.incoming = root / "entries", root / "incoming"
        self._notes = root / "announced"
        self.trash, self.quarantine = root / "trash", root / "quarantine"
        self.locks, self.pins = root / "locks", root / "pins"

    def make(self) -> None:
        """Create what is missing."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (
            self.entries,
            self.incoming,
            self._notes,
            self.trash,
            self.quarantine,
            self.locks,
            self.pins,
        ):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def limit_bytes(self) -> int:
        """The limit on this disk."""
        return self._limit.in_bytes(shutil.disk_usage(self.root).total)

    def lease(self, key: str) -> Lock:
        """Return the lock that readers of *key* share and its eviction needs alone."""
        return Lock(self.locks / f"{key}.lease")

    def filling(self, key: str) -> Lock:
        """Return the lock of whoever changes what stands under *key*."""
        return Lock(self.locks / f"{key}.fill")

    def listed_with_readers(self) -> list[Entry]:
        """Return every entry, the least recently used first, and whether anybody reads it."""
        with held(self.locks / "room", wait_s=_PATIENCE_S):
            return self._listed(ask_readers=True)

    def _listed(self, *, ask_readers: bool = False) -> list[Entry]:
        """Return every entry, the least recently used first.

        Asking for readers takes each lease for a moment, so only under the lock of evictions.
        """
        found = []
        for folder in self.entries.iterdir():
            record, lease = read_record(folder), self.locks / f"{folder.name}.lease"
            with contextlib.suppress(FileNotFoundError):
                found.append(
                    Entry(
                        key=folder.name,
                        size_bytes=record.size_bytes if record else size_of(folder),
                        used_at=lease.stat().st_mtime_ns / 1e9 if lease.exists() else 0.0,
                        pinned=(self.pins / folder.name).exists(),
                        in_use=ask_readers and self._in_use(folder.name),
                        source=record.source if record else "",
                        health=look(folder),
                    )
                )
        return sorted(found, key=lambda entry: (entry.used_at, entry.key))

    def _in_use(self, key: str) -> bool:
        lock = self.lease(key)
        try:
            return not lock.try_take()
        finally:
            lock.close()

    def evict(self, key: str) -> bool:
        """Remove *key* unless somebody reads it or it is pinned; return whether it is gone."""
        if (self.pins / key).exists():
            return False
        lock = self.lease(key)
        try:
            if not lock.try_take():
                return False
            self.throw_away(self.entries / key)
            return True
        finally:
            lock.close()

    def throw_away(self, folder: Path) -> None:
        """Take *folder* out of sight in one step, then remove it; harmless when it is gone."""
        gone = self.trash / f"{folder.name}.{os.getpid()}.{time.monotonic_ns()}"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
            remove(gone)

    @contextlib.contextmanager
    def announced(self, key: str, size_bytes: int) -> Iterator[None]:
        """Make room for *size_bytes* and keep it while the block fills *key*.

        The caller holds the fill lock of *key*, which is what keeps the announcement alive. Raises
        ``CacheFullError`` when too much is in use or pinned.
        """
        note = self._notes / key
        with held(self.locks / "room", wait_s=_PATIENCE_S):
            for left in (note, self.incoming / key):
                remove(left)
            self._sweep(own=key)
            self._make_room(size_bytes)
            note.write_text(str(size_bytes))
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    def shrink(self, size_bytes: int) -> int:
        """Evict the least recently used until *size_bytes* are freed; return what was."""
        with held(self.locks / "room", wait_s=_PATIENCE_S):
            self._sweep(own="")
            freed = 0
            for folder in sorted(self.quarantine.iterdir()):
                if freed < size_bytes:
                    freed += size_of(folder)
                    remove(folder)
            for entry in self._listed():
                if freed < size_bytes and self.evict(entry.key):
                    freed += entry.size_bytes
            return freed

    def _sweep(self, own: str) -> None:
        """Remove what processes left behind that were killed while they filled or evicted."""
        for folder in self.trash.iterdir():
            remove(folder)
        for key in {item.name for home in (self.incoming, self._notes) for item in home.iterdir()}:
            if key == own:
                continue
            lock = self.filling(key)
            try:
                if lock.try_take():
                    remove(self.incoming / key)
                    remove(self._notes / key)
            finally:
                lock.close()

    def _make_room(self, needed: int) -> None:
        limit = self.limit_bytes
        if needed > limit:
            raise CacheFullError(
                f"cache {self.root}: {needed:,} bytes are asked for and it may hold {limit:,} in "
                "all; raise cache_limit, or leave cache_dir empty to read the data where they are"
            )
        for folder in sorted(self.quarantine.iterdir()):
            if self._short(needed, limit) > 0:
                remove(folder)
        for entry in self._listed():
            if self._short(needed, limit) <= 0:
                return
            self.evict(entry.key)
        if (short := self._short(needed, limit)) > 0:
            raise self._full(needed, short)

    def _announced(self) -> int:
        return sum(_number(note) for note in self._notes.iterdir())

    def _short(self, needed: int, limit: int) -> int:
        """Return how many bytes are missing under the limit, or on the disk; 0 or less: none."""
        # Anew each time, for fills end while others are evicted; and before the entries are
        # counted: one that ends between the two counts twice, never not at all.
        announced = self._announced()
        unwritten = announced - sum(size_of(folder) for folder in self.incoming.iterdir())
        kept = sum(entry.size_bytes for entry in self._listed())
        kept += sum(size_of(folder) for folder in self.quarantine.iterdir())
        free = shutil.disk_usage(self.root).free - max(unwritten, 0)
        return max(kept + announced + needed - limit, needed - free)

    def _full(self, needed: int, short: int) -> CacheFullError:
        entries = self._listed(ask_readers=True)
        used = sum(entry.size_bytes for entry in entries if entry.in_use)
        pinned = sum(entry.size_bytes for entry in entries if entry.pinned and not entry.in_use)
        free = shutil.disk_usage(self.root).free
        return CacheFullError(
            f"cache {self.root}: no room for {needed:,} bytes, {short:,} are missing; of at most "
            f"{self.limit_bytes:,} bytes {used:,} are being read, {pinned:,} are pinned, "
            f"{self._announced():,} are being filled; {free:,} are free on the disk. Wait for the "
            "readers, unpin entries, free the disk, or raise cache_limit"
        )


def size_of(folder: Path) -> int:
    """Return the bytes of the files below *folder*; 0 when it is gone."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total


def remove(path: Path) -> None:
    """Remove a file, a link or a folder tree; what somebody else removed meanwhile is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _number(note: Path) -> int:
    try:
        return int(note.read_text())
    except (OSError, ValueError):
        return 0
