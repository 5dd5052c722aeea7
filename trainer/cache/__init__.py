"""A node-local cache of folders named by digest: filled once, verified, never evicted while read.

Standard library only, and the one part of the trainer that ``trainyard`` also uses: all processes
of a host must follow one protocol of locks, so there is one implementation of it.

``Cache.acquire(key, fill)`` gives a ``Lease`` on a folder of plain files. Reading goes through the
folder itself; the cache is not in the read path. What makes it safe (docs/decisions/0013):

- an entry appears by one rename, its record already inside: half an entry does not exist;
- a lease is a shared ``flock``; eviction needs the exclusive one. The kernel drops a lock with its
  last holder, however that one ends;
- one exclusive lock per key lets one process fill while the others wait for it;
- one lock per cache guards the sum of sizes: entries and announced fills together stay in bounds.
"""

from __future__ import annotations

from trainer.cache.copying import copy_verified, hash_file
from trainer.cache.dataset import DESCRIPTION, DatasetEntry
from trainer.cache.entry import Entry, Health, check_key
from trainer.cache.errors import CacheError, CacheFullError, DamagedError
from trainer.cache.limit import Limit
from trainer.cache.store import Cache, Fill, Lease

__all__ = [
    "DESCRIPTION",
    "Cache",
    "CacheError",
    "CacheFullError",
    "DamagedError",
    "DatasetEntry",
    "Entry",
    "Fill",
    "Health",
    "Lease",
    "Limit",
    "check_key",
    "copy_verified",
    "hash_file",
]
