"""``Cache``: acquire an entry, filling it when it is missing; list, verify, pin, evict."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.cache.entry import (
    Entry,
    Health,
    check_key,
    describe,
    look,
    read_through,
    write_record,
)
from trainer.cache.errors import CacheError, CacheFullError, means_full
from trainer.cache.limit import Limit
from trainer.cache.locks import Lock, check_usable
from trainer.cache.room import Room, remove

Fill = Callable[[Path], Mapping[str, str]]
"""Writes the files of an entry into an empty folder; returns their verified SHA-256 by name."""
_ATTEMPTS = 5
_KEPT_IN_QUARANTINE = 2


class Lease:
    """The right to read one entry: it is not evicted before ``release``, whoever needs room.

    A process that forks shares its leases with its children; they end with the last of them.
    """

    def __init__(self, key: str, folder: Path, lock: Lock, *, hit: bool) -> None:
        """Hold *lock*, which is taken, for *folder*."""
        self.key = key
        self.folder = folder
        self.hit = hit
        self._lock = lock

    def release(self) -> None:
        """Give the right back; harmless when that was done."""
        self._lock.close()

    def __enter__(self) -> Self:
        """Return the lease."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()


class Cache:
    """The cache in one folder of this host; any number of processes use it at once."""

    def __init__(self, root: Path, limit: Limit, *, wait_s: float = 3600.0) -> None:
        """Open the cache in *root*, made when missing; *wait_s* bounds waiting for another's fill.

        Raises ``CacheError`` for a folder of somebody else, and where locks mean nothing.
        """
        self._room = Room(root, limit)
        self._wait_s = wait_s
        try:
            self._room.make()
            _check_owner(root)
            check_usable(root)
        except OSError as error:
            raise CacheError(
                f"cache_dir {root}: {error.strerror}; name a folder that this user can write, on a "
                "disk of this node"
            ) from error

    @property
    def limit_bytes(self) -> int:
        """How much it may hold."""
        return self._room.limit_bytes

    def acquire(self, key: str, fill: Fill, *, size_bytes: int, source: str = "") -> Lease:
        """Return a lease on *key*, filled by *fill* when it is not there or not sound.

        *size_bytes* is what *fill* will write. Of several processes that miss at once one fills.
        Raises ``CacheFullError`` when there is no room beside what is in use, ``CacheError`` when
        another process fills for too long, and whatever *fill* raises; then there is no entry.
        """
        lock = self._room.lease(check_key(key))
        try:
            # Shared from here on: nobody evicts between the end of the fill and its first reader.
            lock.take(shared=True, wait_s=self._wait_s)
            folder = self._room.entries / key
            hit = look(folder) is Health.SOUND or self._ensure(key, fill, size_bytes, source)
            lock.touch()
        except BaseException:
            lock.close()
            raise
        return Lease(key, folder, lock, hit=hit)

    def _ensure(self, key: str, fill: Fill, size_bytes: int, source: str) -> bool:
        """Make *key* sound; return whether it was there after all."""
        filling = self._room.filling(key)
        try:
            filling.take(wait_s=self._wait_s)
            # Somebody may have filled it meanwhile; or it is only under suspicion.
            health = look(self._room.entries / key)
            if health is Health.SUSPECT:
                health = read_through(self._room.entries / key)
            if health is Health.SOUND:
                return True
            if health is Health.DAMAGED:
                self._set_aside(key)
            self._fill(key, fill, size_bytes, source)
            return False
        finally:
            filling.close()

    def _fill(self, key: str, fill: Fill, size_bytes: int, source: str) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._room.announced(key, size_bytes):
                    self._fill_once(key, fill, source)
            except Exception as error:
                if isinstance(error, CacheFullError) or not means_full(error):
                    raise
                # Somebody else wrote to the same disk: give up entries, then say so.
                if attempt == _ATTEMPTS or not self._room.shrink(size_bytes):
                    raise CacheFullError(
                        f"cache {self._room.root}: the disk filled up while {key} "
                        f"({size_bytes:,} bytes) was written, and nothing is left to evict "
                        f"({error}). Free the disk or lower cache_limit"
                    ) from error
            else:
                return

    def _fill_once(self, key: str, fill: Fill, source: str) -> None:
        incoming = self._room.incoming / key
        remove(incoming)  # left by a process that was killed
        incoming.mkdir(mode=0o700)
        try:
            digests = fill(incoming)
            write_record(incoming, describe(incoming, digests, source))
            incoming.rename(self._room.entries / key)
        finally:
            remove(incoming)

    def _set_aside(self, key: str) -> None:
        """Move what is wrong out of the way, and keep the newest for a person to look at."""
        home = self._room.quarantine
        folder = self._room.entries / key
        if folder.is_symlink():
            folder.unlink()  # what it points to is none of ours
        else:
            folder.rename(home / f"{time.time_ns()}.{key}.{os.getpid()}")
        for old in sorted(home.iterdir())[:-_KEPT_IN_QUARANTINE]:
            remove(old)

    def entries(self) -> list[Entry]:
        """Return what it holds, the least recently used first."""
        return self._room.listed_with_readers()

    def quarantined(self) -> list[Path]:
        """Return the damaged folders that were set aside, the oldest first."""
        return sorted(self._room.quarantine.iterdir())

    def verify(self, key: str) -> Health:
        """Read all of *key*; set it aside when it is damaged. ``ABSENT`` when it is not there."""
        lease, filling = self._room.lease(check_key(key)), self._room.filling(key)
        try:
            lease.take(shared=True, wait_s=self._wait_s)
            filling.take(wait_s=self._wait_s)
            health = read_through(self._room.entries / key)
            if health is Health.DAMAGED:
                self._set_aside(key)
            return health
        finally:
            filling.close()
            lease.close()

    def evict(self, key: str) -> bool:
        """Remove *key*; False when it is being read or pinned."""
        return self._room.evict(check_key(key))

    def shrink(self, size_bytes: int) -> int:
        """Evict the least recently used until *size_bytes* are freed; return how many were."""
        return self._room.shrink(size_bytes)

    def pin(self, key: str, *, pinned: bool = True) -> None:
        """Keep *key* from eviction, or no longer; it need not be there yet."""
        mark = self._room.pins / check_key(key)
        if pinned:
            mark.touch(mode=0o600)
        else:
            mark.unlink(missing_ok=True)


def _check_owner(root: Path) -> None:
    """Refuse a folder in which somebody else could swap files under a reader."""
    info = root.stat()
    if info.st_uid not in {os.geteuid(), 0}:
        raise CacheError(
            f"cache_dir {root}: belongs to user id {info.st_uid}; every user needs a cache of "
            f"their own, such as {root}/{os.geteuid()}"
        )
    if info.st_mode & stat.S_IWOTH:
        raise CacheError(
            f"cache_dir {root}: everybody may write there, so anybody could change the data; name "
            f"a folder inside it, such as {root}/trainyard-{os.geteuid()}"
        )
