"""``fetch``: from the publisher into the object store, once; safe to interrupt and to repeat.

Order matters: the archive is verified before anything reads inside it, inspected before it is
stored, stored before its manifest. Whatever breaks, no manifest names a missing or wrong object.

Network and array libraries are imported by the functions that use them: DAG files import this.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.contract import ContractError, decode, encode
from trainyard.datasets.catalogue import DatasetSource, find
from trainyard.datasets.manifest import Manifest, archive_key, manifest_key
from trainyard.errors import DatasetError
from trainyard.files import Progress, ignore_progress, need_room, one_at_a_time

if TYPE_CHECKING:
    from trainyard.datasets.download import Patience
    from trainyard.datasets.quality import Inspection
    from trainyard.objectstore import ObjectStore
    from trainyard.settings import Settings


@dataclass(kw_only=True, slots=True, frozen=True)
class _Archive:
    """A verified archive on this machine."""

    path: Path
    retrieved_at: str


def fetch(
    name: str,
    *,
    settings: Settings,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Manifest:
    """Make sure that data set *name* is staged, and return its manifest.

    Downloads (resuming an interrupted download), verifies, inspects, stores. Where it is staged
    already, nothing but the manifest is read. Two calls at once do the work once.

    Raises ``ConfigurationError`` for an unknown name, wrong credentials or missing permission;
    ``UnavailableError`` when source or store do not answer or a disk is full (run it again: it
    resumes); ``DatasetError`` when the data are not what the publisher says.
    """
    from trainyard.datasets.download import Patience
    from trainyard.objectstore import ObjectStore

    source = find(name, settings)
    store = ObjectStore(settings)
    found = _staged(source, store)
    if found is not None:
        return found
    downloads = Path(settings.downloads_dir)
    lock = downloads / "locks" / f"{source.sha256}.lock"
    with one_at_a_time(lock, f"fetch of {name}"):
        found = _staged(source, store)  # another process may have staged it while we waited
        if found is not None:
            return found
        store.ensure_bucket()
        report = progress or ignore_progress
        return _stage(source, store, downloads, report, patience or Patience())


def staged(name: str, *, settings: Settings) -> Manifest | None:
    """Return the manifest of data set *name* when it is staged and its archive is there."""
    from trainyard.objectstore import ObjectStore

    return _staged(find(name, settings), ObjectStore(settings))


def _staged(source: DatasetSource, store: ObjectStore) -> Manifest | None:
    """Return the manifest, or None when it, or what it names, is missing or not readable.

    A manifest of an older version of the record counts as missing: staging again writes a new one
    and uses the archive that is there.
    """
    document = store.get_json(manifest_key(source.name, source.sha256))
    if document is None:
        return None
    try:
        manifest = decode(Manifest, document, "manifest")
    except ContractError:
        return None
    info = store.stat(manifest.object_key)
    return manifest if info and info.size_bytes == manifest.size_bytes else None


def _stage(
    source: DatasetSource,
    store: ObjectStore,
    downloads: Path,
    progress: Progress,
    patience: Patience,
) -> Manifest:
    from trainyard.datasets.download import discard, obtain

    key = archive_key(source.sha256)
    info = store.stat(key)
    there = info is not None and info.size_bytes == source.size_bytes
    if info is not None and there:
        path = downloads / f"{source.sha256}.restored"
        need_room(path, source.size_bytes, f"the archive of {source.name}")
        store.get_to_file(
            key, path, size_bytes=source.size_bytes, sha256=source.sha256, progress=progress
        )
        archive = _Archive(path=path, retrieved_at=info.modified_at)
    else:
        path = obtain(source, downloads, progress, patience)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        archive = _Archive(path=path, retrieved_at=now)
    inspection = _inspect(source, archive.path, downloads)
    manifest = _manifest(source, store, archive, inspection)
    store_archive(store, manifest, None if there else archive.path, progress)
    if there:
        archive.path.unlink()
    discard(source, downloads)  # never a file of somebody else: those are used where they lie
    return manifest


def store_archive(
    store: ObjectStore, manifest: Manifest, path: Path | None, progress: Progress = ignore_progress
) -> None:
    """Store the archive at *path* (None: it is there), then the manifest that names it.

    The archive's digest is compared while its bytes travel: one pass over the file.
    """
    if path is not None:
        store.put_file(manifest.object_key, path, sha256=manifest.digest, progress=progress)
    store.put_json(manifest.key, encode(manifest))


def _inspect(source: DatasetSource, path: Path, downloads: Path) -> Inspection:
    """Read the archive once into scratch arrays and check the images; raise on a failed check."""
    from trainyard.datasets.formats import Expected, convert
    from trainyard.datasets.quality import inspect

    expected = Expected(
        format=source.format,
        classes=len(source.classes),
        train=source.train_images,
        test=source.test_images,
    )
    need_room(downloads, expected.shape.size_bytes, f"inspecting {source.name}")
    scratch = Path(tempfile.mkdtemp(prefix=f"inspect-{source.name}-", dir=downloads))
    try:
        raw = convert(path, expected, scratch)
        inspection = inspect(scratch, expected, raw)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if inspection.failed:
        listed = "; ".join(
            f"{check.name}: {check.measured}, required {check.requirement}"
            for check in inspection.failed
        )
        raise DatasetError(
            f"data set {source.name}: {len(inspection.failed)} quality checks failed: {listed}. "
            "Nothing was staged; correct its description or use another source"
        )
    return inspection


def _manifest(
    source: DatasetSource, store: ObjectStore, archive: _Archive, inspection: Inspection
) -> Manifest:
    by = source.checksum_source or "the catalogue"
    verified = [f"size {source.size_bytes} bytes", f"sha256 {source.sha256} ({by})"]
    if source.md5:
        verified.append(f"md5 {source.md5} ({by})")
    return Manifest(
        name=source.name,
        title=source.title,
        digest=source.sha256,
        size_bytes=source.size_bytes,
        source=source.url,
        licence=source.licence,
        homepage=source.homepage,
        retrieved_at=archive.retrieved_at,
        bucket=store.bucket,
        object_key=archive_key(source.sha256),
        format=source.format.value,
        verified=tuple(verified),
        counts=inspection.counts,
        classes=source.classes,
        quality=inspection.checks,
    )
