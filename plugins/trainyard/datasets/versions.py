"""Versions of data sets: ``name@v1`` names one digest for ever. Free of Airflow.

The results database gives the numbers, so that two hosts agree; ``manifests/<name>/v<N>.json`` in
the object store says the same beside the data. A spec never holds an alias: what ``latest`` meant
is resolved when a study is made, and its digest is what runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainer.contract import ContractError, decode, encode
from trainyard.datasets.catalogue import find
from trainyard.datasets.manifest import Manifest, manifest_key, version_key
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.files import Progress

if TYPE_CHECKING:
    from trainyard.objectstore import ObjectStore
    from trainyard.settings import Settings

LATEST = "latest"
REFERENCE = r"[a-z0-9][a-z0-9_-]{0,63}(@(latest|v[1-9][0-9]{0,8}))?"
_REFERENCE = re.compile(REFERENCE)


@dataclass(kw_only=True, slots=True, frozen=True)
class Reference:
    """What a person writes: ``digits``, ``digits@v2``, ``digits@latest``."""

    name: str
    """Data set."""
    version: int | None = None
    """Number; None for the catalogue's own archive, or the latest."""
    latest: bool = False
    """The newest registered version."""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return what *text* refers to; raises ``ConfigurationError`` naming the forms."""
        if not _REFERENCE.fullmatch(text):
            raise ConfigurationError(
                f"data set {text!r}: write name, name@latest or name@v1; names are listed by "
                "`python -m trainyard.datasets versions list`"
            )
        name, _, version = text.partition("@")
        if version in {"", LATEST}:
            return cls(name=name, latest=version == LATEST)
        return cls(name=name, version=int(version[1:]))


@dataclass(kw_only=True, slots=True, frozen=True)
class Version:
    """One registered version."""

    name: str
    """Data set."""
    number: int
    """From 1."""
    digest: str
    """SHA-256 of its archive."""
    registered_at: str
    """UTC, ISO 8601."""
    deleted: bool = False
    """Its archive is gone; the number is never given again."""

    def __str__(self) -> str:
        """Return ``name@vN``."""
        return f"{self.name}@v{self.number}"


def register(settings: Settings, manifest: Manifest) -> Manifest:
    """Return *manifest* with its version's number; a new digest takes the next one.

    Repeatable. Raises ``UnavailableError`` when database or object store do not answer.
    """
    from trainyard.objectstore import ObjectStore
    from trainyard.store import open_store
    from trainyard.store.storage import register_version

    with open_store(settings.results_url) as store:
        number = register_version(store, manifest.name, manifest.digest)
        numbered = replace(manifest, version=number)
        store.save_dataset(numbered)
    objects = ObjectStore(settings)
    for key in (numbered.key, version_key(manifest.name, number)):
        if objects.get_json(key) != encode(numbered):
            objects.put_json(key, encode(numbered))
    return numbered


def versions(settings: Settings, name: str) -> list[Version]:
    """Return every version of *name*, deleted ones included, in order."""
    from trainyard.store import open_store

    with open_store(settings.results_url) as store:
        rows = store.query("dataset_versions", name=name)
    return [
        Version(
            name=name,
            number=row["version"],
            digest=row["digest"],
            registered_at=row["registered_at"],
            deleted=row["deleted_at"] is not None,
        )
        for row in rows
    ]


def fetch_version(
    text: str, *, settings: Settings, progress: Progress | None = None
) -> tuple[Manifest, Version]:
    """Make sure that what *text* refers to is staged; return its manifest and its version.

    A name alone is the archive of the catalogue, fetched when it is new and then registered;
    ``@latest`` the newest version registered, whatever the catalogue says now. Raises as ``fetch``
    does, and ``ConfigurationError`` for a version that does not exist, was deleted, or whose
    archive is gone and no longer in the catalogue.
    """
    from trainyard.datasets.stage import fetch

    reference = Reference.parse(text)
    known = versions(settings, reference.name)
    if reference.version is None and not (reference.latest and any(not v.deleted for v in known)):
        manifest = register(settings, fetch(reference.name, settings=settings, progress=progress))
        return manifest, _of_digest(settings, manifest)
    wanted = _choose(reference, known)
    found = staged_manifest(settings, wanted)
    if found is None:
        if find(reference.name, settings).sha256 != wanted.digest:
            raise ConfigurationError(
                f"{wanted}: its archive {wanted.digest} is not in the object store, and the "
                "catalogue names another one by now. Put its description back into datasets_file "
                "(docs/datasets.md), or choose another version"
            )
        found = register(settings, fetch(reference.name, settings=settings, progress=progress))
    return found, wanted


def _choose(reference: Reference, known: list[Version]) -> Version:
    usable = [version for version in known if not version.deleted]
    if reference.latest:
        return usable[-1]
    for version in known:
        if version.number == reference.version:
            if version.deleted:
                raise ConfigurationError(f"{version} was deleted; choose from {_listed(usable)}")
            return version
    raise ConfigurationError(
        f"{reference.name}@v{reference.version} does not exist; choose from {_listed(usable)}"
    )


def _listed(usable: list[Version]) -> str:
    return ", ".join(map(str, usable)) or "none: fetch the data set first, by its name alone"


def _of_digest(settings: Settings, manifest: Manifest) -> Version:
    for version in versions(settings, manifest.name):
        if version.digest == manifest.digest:
            return version
    raise UnavailableError(f"{manifest.name}: its version vanished from the database; try again")


def staged_manifest(settings: Settings, version: Version) -> Manifest | None:
    """Return the manifest of *version* when it and its archive are in the object store."""
    from trainyard.objectstore import ObjectStore

    store = ObjectStore(settings)
    document = store.get_json(manifest_key(version.name, version.digest))
    try:
        manifest = decode(Manifest, document, "manifest") if document is not None else None
    except ContractError:
        return None
    if manifest is None or not _archive_there(store, manifest):
        return None
    return replace(manifest, version=version.number)


def _archive_there(store: ObjectStore, manifest: Manifest) -> bool:
    info = store.stat(manifest.object_key)
    return info is not None and info.size_bytes == manifest.size_bytes


def delete(settings: Settings, text: str) -> Version:
    """Remove the archive, manifests and prepared arrays of a version; keep its number taken.

    Raises ``ConfigurationError`` while any study or run of the results database was measured on
    it, and for a reference without a version number.
    """
    from trainyard.objectstore import ObjectStore
    from trainyard.store import open_store
    from trainyard.store.storage import forget_version

    reference = Reference.parse(text)
    if reference.version is None:
        raise ConfigurationError(f"{text!r}: name the version to delete, such as {text}@v1")
    version = _choose(reference, versions(settings, reference.name))
    with open_store(settings.results_url) as store:
        used = store.query("dataset_references", dataset_digest=version.digest)
        if used:
            named = ", ".join(str(row["run_id"]) for row in used[:3])
            raise ConfigurationError(
                f"{version} is what {len(used)} studies and runs were measured on ({named}"
                f"{', …' if len(used) > 3 else ''}); it stays, or their numbers could never be "  # noqa: PLR2004
                "checked again. Delete their rows first if they do not matter"
            )
        # First the mark: whatever breaks after it, nobody is given half a version.
        forget_version(store, version.name, version.number)
    objects = ObjectStore(settings)
    prepared = objects.keys(f"prepared/{version.digest}/{version.name}-")
    for key in (
        version_key(version.name, version.number),
        manifest_key(version.name, version.digest),
        *prepared,
    ):
        objects.remove(key)
    if not _shared(settings, objects, version):
        objects.remove(f"datasets/sha256/{version.digest}")
    return version


def _shared(settings: Settings, objects: ObjectStore, version: Version) -> bool:
    """Say whether another name has the same archive."""
    del settings
    ending = f"/{version.digest}.json"
    return any(key.endswith(ending) for key in objects.keys("manifests/"))
