"""Prepared arrays in the object store: made by one node, read by every other as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cache import DESCRIPTION, DamagedError, DatasetEntry
from trainyard.errors import DatasetError
from trainyard.files import Progress, ignore_progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainyard.datasets.manifest import Manifest
    from trainyard.objectstore import ObjectStore


def prefix_of(manifest: Manifest) -> str:
    """Return below which keys the arrays of *manifest* lie, in the layout of this Trainyard."""
    from trainyard.datasets.formats import LAYOUT

    return f"prepared/{manifest.digest}/{manifest.name}-{LAYOUT}/"


def put_prepared(store: ObjectStore, manifest: Manifest, folder: Path) -> DatasetEntry:
    """Store the arrays in *folder*, as ``prepare`` made them; their description comes last."""
    entry = _entry((folder / DESCRIPTION).read_bytes(), manifest, str(folder))
    for name in sorted(entry.digests, key=lambda one: one == DESCRIPTION):
        key = prefix_of(manifest) + name
        store.put_file(key, folder / name, sha256=entry.digests[name])
    return entry


def find_prepared(store: ObjectStore, manifest: Manifest) -> tuple[DatasetEntry, bytes] | None:
    """Return what is stored of *manifest* and its description's text; None when nothing is.

    Raises ``DatasetError`` for a description that is not one, or another data set's.
    """
    text = store.get_bytes(prefix_of(manifest) + DESCRIPTION)
    if text is None:
        return None
    where = store.uri(prefix_of(manifest) + DESCRIPTION)
    return _entry(text, manifest, where), text


def get_prepared(
    store: ObjectStore,
    manifest: Manifest,
    found: tuple[DatasetEntry, bytes],
    folder: Path,
    progress: Progress = ignore_progress,
) -> Mapping[str, str]:
    """Write the arrays into *folder*, hashed while they arrive; return their digests by name.

    Raises ``DatasetError`` for wrong bytes, ``UnavailableError`` when the store is down, has lost
    an object, or the disk is full.
    """
    entry, text = found
    for name, digest in entry.digests.items():
        if name == DESCRIPTION:
            (folder / name).write_bytes(text)
            continue
        store.get_to_file(
            prefix_of(manifest) + name,
            folder / name,
            size_bytes=entry.sizes[name],
            sha256=digest,
            progress=progress,
        )
    return entry.digests


_FILES = {f"{split}_{kind}.npy" for split in ("train", "test") for kind in ("images", "labels")}


def _entry(text: bytes, manifest: Manifest, where: str) -> DatasetEntry:
    try:
        entry = DatasetEntry.read(text, where)
    except DamagedError as error:
        raise DatasetError(str(error)) from error
    if set(entry.digests) != {*_FILES, DESCRIPTION} or not entry.key.startswith(manifest.digest):
        raise DatasetError(
            f"{where}: describes {entry.key} with {sorted(entry.digests)}, not the four arrays of "
            f"{manifest.name} ({manifest.digest}). Remove it from the bucket and fill again"
        )
    return entry
