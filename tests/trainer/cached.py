"""Entries for the cache's tests: content that follows from the key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from trainer.cache import Cache, Fill, Limit, hash_file


def content(key: str, size: int) -> bytes:
    """Return *size* bytes that no other key has."""
    word = hashlib.sha256(key.encode()).digest()
    return (word * (size // len(word) + 1))[:size]


def digests_of(folder: Path) -> Mapping[str, str]:
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


class Filler:
    """Fills entries and remembers which; ``fail`` raises instead, half-way."""

    def __init__(self, size: int = 1000) -> None:
        self.size, self.filled = size, list[str]()
        self.fail: BaseException | None = None

    def of(self, key: str) -> Fill:
        def fill(folder: Path) -> Mapping[str, str]:
            (folder / "a.bin").write_bytes(content(key, self.size // 2))
            if self.fail is not None:
                raise self.fail
            (folder / "a.bin").write_bytes(content(key, self.size))
            self.filled.append(key)
            return digests_of(folder)

        return fill

    def use(self, cache: Cache, key: str) -> bool:
        """Acquire and release *key*; return whether it was there."""
        with cache.acquire(key, self.of(key), size_bytes=self.size) as lease:
            assert (lease.folder / "a.bin").read_bytes() == content(key, self.size)
            return lease.hit


def cache_of(root: Path, entries: float = 3, size: int = 1000, wait_s: float = 5) -> Cache:
    """Return a cache with room for so many entries."""
    return Cache(root / "cache", Limit(size_bytes=int(entries * size)), wait_s=wait_s)


def keys(cache: Cache) -> list[str]:
    return [entry.key for entry in cache.entries()]
