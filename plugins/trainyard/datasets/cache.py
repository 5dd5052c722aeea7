"""This node's cache of prepared data sets, filled from the object store. Free of Airflow.

The same entries that ``trainer.stage`` makes from a shared folder: a run that names the cache finds
what was filled here, and the other way round.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cache import Cache, CacheError, CacheFullError, DamagedError, Lease, Limit
from trainyard.errors import ConfigurationError, DatasetError, UnavailableError
from trainyard.files import Progress, ignore_progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainyard.datasets.manifest import Manifest
    from trainyard.objectstore import ObjectStore
    from trainyard.settings import Settings
    from trainyard.sites import Site


def cache_of(site: Site) -> Cache:
    """Return the cache of *site* on this host; raises ``ConfigurationError`` when it has none."""
    if not site.cache_dir:
        raise ConfigurationError(
            f"site {site.name!r} has no cache: set cache_dir (and cache_limit) in the site file"
        )
    return open_cache(Path(site.cache_dir), site.cache_limit)


def open_cache(folder: Path, limit: str) -> Cache:
    """Return the cache in *folder*; raises ``ConfigurationError`` where there can be none."""
    with explained():
        return Cache(folder, Limit.parse(limit))


def cached(
    manifest: Manifest,
    cache: Cache,
    settings: Settings,
    *,
    progress: Progress = ignore_progress,
) -> Lease:
    """Return a lease on the prepared arrays of *manifest* in *cache*.

    A miss reads the arrays from the object store, or, where nobody has prepared this archive yet,
    prepares it once and stores the arrays for the nodes that come after. Raises
    ``UnavailableError`` when the store is down or there is no room, ``DatasetError`` for wrong
    bytes, ``ConfigurationError`` for a cache that cannot work.
    """
    from trainyard.datasets.prepared import find_prepared, get_prepared
    from trainyard.objectstore import ObjectStore

    store = ObjectStore(settings)
    found = find_prepared(store, manifest)
    if found is None:
        _prepare_for_all(manifest, store, settings, progress)
        found = find_prepared(store, manifest)
    if found is None:
        raise UnavailableError(f"the prepared {manifest.name} vanished from the store; try again")
    entry = found

    def fill(folder: Path) -> Mapping[str, str]:
        return get_prepared(store, manifest, entry, folder, progress)

    with explained():
        return cache.acquire(
            entry[0].key, fill, size_bytes=entry[0].size_bytes, source=f"{manifest.name} from store"
        )


def _prepare_for_all(
    manifest: Manifest, store: ObjectStore, settings: Settings, progress: Progress
) -> None:
    from trainyard.datasets.materialise import prepare
    from trainyard.datasets.prepared import put_prepared

    downloads = Path(settings.downloads_dir)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"prepare-{manifest.name}-", dir=downloads) as scratch:
        folder = prepare(manifest, Path(scratch), settings, progress=progress)
        put_prepared(store, manifest, folder)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise the cache's own errors as Trainyard's."""
    try:
        yield
    except CacheFullError as error:
        raise UnavailableError(str(error)) from error
    except DamagedError as error:
        raise DatasetError(str(error)) from error
    except (CacheError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
