"""``prepare``: from the object store into the folder that a training run memory-maps.

The folder is named by the archive's digest and appears in one step; a reader never sees half a
data set, and two preparations at once do the work once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainyard.datasets.catalogue import Format
from trainyard.files import (
    Progress,
    disk_errors,
    fsync_path,
    ignore_progress,
    need_room,
    one_at_a_time,
    sha256_of,
    write_atomically,
)

if TYPE_CHECKING:
    from trainyard.datasets.formats import Expected
    from trainyard.datasets.manifest import Manifest
    from trainyard.objectstore import ObjectStore
    from trainyard.settings import Settings

DESCRIPTION = "dataset.json"


def prepare(
    manifest: Manifest,
    data_dir: Path,
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> Path:
    """Return ``data_dir/<digest>`` with the four arrays and ``dataset.json`` of *manifest*.

    A sound folder is used as it is; a damaged one (size or digest of a file differs from
    ``dataset.json``) is made again. An interrupted transfer resumes. Raises ``UnavailableError``
    when the store does not answer or the disk is full, ``DatasetError`` when the stored archive
    is damaged or hostile; then no folder appears.
    """
    from trainyard.objectstore import ObjectStore

    final = data_dir / manifest.digest
    if _sound(final, manifest):
        return final
    lock = data_dir / "locks" / f"{manifest.digest}.lock"
    with one_at_a_time(lock, f"preparation of {manifest.name}"):
        if not _sound(final, manifest):
            _build(manifest, data_dir, final, ObjectStore(settings), progress or ignore_progress)
    return final


def _build(
    manifest: Manifest, data_dir: Path, final: Path, store: ObjectStore, progress: Progress
) -> None:
    from trainyard.datasets.formats import convert

    incoming = data_dir / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    archive, building = incoming / manifest.digest, incoming / f"{manifest.digest}.building"
    shutil.rmtree(building, ignore_errors=True)  # left by a process that was killed
    expected = expectation(manifest)
    present = archive.stat().st_size if archive.exists() else 0
    needed = manifest.size_bytes - present + expected.shape.size_bytes
    need_room(incoming, needed, f"preparing {manifest.name}")
    store.get_to_file(
        manifest.object_key,
        archive,
        size_bytes=manifest.size_bytes,
        sha256=manifest.digest,
        progress=progress,
    )
    try:
        with disk_errors(building, needed, f"preparing {manifest.name}"):
            building.mkdir()
            convert(archive, expected, building)
            text = json.dumps(_description(manifest, building), indent=2, sort_keys=True)
            write_atomically(building / DESCRIPTION, text + "\n")
            fsync_path(building)
        shutil.rmtree(final, ignore_errors=True)  # damaged; readers keep their open maps
        building.rename(final)
        fsync_path(data_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    archive.unlink()


def expectation(manifest: Manifest) -> Expected:
    """Return what the archive of *manifest* must hold."""
    from trainyard.datasets.formats import Expected

    images = {count.split: count.images for count in manifest.counts}
    return Expected(
        format=Format(manifest.format),
        classes=len(manifest.classes),
        train=images["train"],
        test=images["test"],
    )


def _description(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Return ``dataset.json``: what the trainer needs, and what proves the files are whole."""
    from trainyard.datasets.formats import LAYOUT
    from trainyard.datasets.quality import channel_moments

    mean, std = channel_moments(folder)
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "classes": list(manifest.classes),
        "layout": LAYOUT,
        "mean": mean,
        "std": std,
        "files": {
            path.name: {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(folder.glob("*.npy"))
        },
    }


def _sound(folder: Path, manifest: Manifest) -> bool:
    """Tell whether *folder* is a whole preparation of *manifest*, reading every byte of it."""
    from trainyard.datasets.formats import LAYOUT

    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        if (described["digest"], described["layout"], described["name"]) != (
            manifest.digest,
            LAYOUT,
            manifest.name,
        ):
            return False
        files = described["files"]
        return set(files) == _FILES and all(
            (folder / name).stat().st_size == fact["size_bytes"]
            and sha256_of(folder / name) == fact["sha256"]
            for name, fact in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


_FILES = {f"{split}_{kind}.npy" for split in ("train", "test") for kind in ("images", "labels")}
