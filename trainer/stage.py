"""From the shared folder of prepared data into this node's cache: ``python -m trainer.stage``.

A run given ``--cache`` does it by itself: the first rank of a node copies, the others wait, and
every rank holds a lease while it trains. The command does the same beforehand, and prints the
folder; nothing keeps the entry from eviction after it ended, unless it is pinned.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from trainer.cache import (
    DESCRIPTION,
    Cache,
    CacheError,
    DamagedError,
    DatasetEntry,
    Lease,
    Limit,
    copy_verified,
)
from trainer.failures import DataError

DEFAULT_LIMIT = "50%"


def stage(data: Path, cache: Cache) -> Lease:
    """Return a lease on this node's copy of the prepared data set in *data*.

    The copy is named after the archive's digest and the content of ``dataset.json``, which lists
    the digest of every file: another preparation of the same archive is another entry. Raises
    ``DataError`` when *data* is no prepared data set, ``CacheError`` and ``OSError`` when the
    cache cannot take it.
    """
    path = data / DESCRIPTION
    try:
        entry = DatasetEntry.read(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}. Prepare it again: the fetch_dataset DAG, or `prepare` of "
            "trainyard.datasets"
        ) from error
    except DamagedError as error:
        raise DataError(str(error)) from error
    fill = partial(copy_verified, data, digests=entry.digests)
    return cache.acquire(entry.key, fill, size_bytes=entry.size_bytes, source=str(data))


@contextlib.contextmanager
def local_copy(data: Path | None, cache: Path | None, limit: str) -> Iterator[Path | None]:
    """Yield the folder to read *data* from: this node's copy, or *data* itself without a cache.

    A cache that cannot help (full, on a network file system, a disk that fails) costs a run its
    speed and never its life: the reason goes to standard error. Raises ``DataError`` for *data*
    that is no prepared data set.
    """
    if data is None or cache is None:
        yield data
        return
    try:
        lease = stage(data, Cache(cache, Limit.parse(limit)))
    except DamagedError as error:
        raise DataError(str(error)) from error
    except (CacheError, OSError, ValueError) as error:
        print(f"trainer: {error}. Reading {data} itself", file=sys.stderr)  # noqa: T201
        yield data
        return
    with lease:
        yield lease.folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Stage one data set and print its folder; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m trainer.stage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", type=Path, help="folder of a prepared data set")
    parser.add_argument("cache", type=Path, help="folder of this node's cache")
    parser.add_argument("--limit", default=DEFAULT_LIMIT, help="bytes, a size, or a share: 50%%")
    parser.add_argument("--pin", action="store_true", help="never evict it")
    given = parser.parse_args(arguments)
    try:
        cache = Cache(given.cache, Limit.parse(given.limit))
        with stage(given.data, cache) as lease:
            if given.pin:
                cache.pin(lease.key)
            print(lease.folder)  # noqa: T201  # what the command answers
    except (CacheError, DataError, OSError, ValueError) as error:
        print(f"trainer.stage: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
