"""``Manifest``: what was staged, from where, and how it was checked; stored beside the archive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trainer.contract.spec import doc

MANIFEST_VERSION = 1


class Verdict(StrEnum):
    """Answer of one quality check; ``warn`` is shown, ``failed`` stops staging."""

    PASSED = "passed"
    WARN = "warn"
    FAILED = "failed"


@dataclass(kw_only=True, slots=True, frozen=True)
class QualityCheck:
    """One measured property of the images and what it has to be."""

    name: str = doc("Stable name, for example class_balance_train")
    verdict: Verdict = doc("passed, warn or failed")
    measured: str = doc("What was found, with unit")
    requirement: str = doc("What passes, and what still only warns")


@dataclass(kw_only=True, slots=True, frozen=True)
class SplitCount:
    """Images of one split."""

    split: str = doc("train or test")
    images: int = doc("Images in it")
    per_class: tuple[int, ...] = doc("Images per class, in label order")


@dataclass(kw_only=True, slots=True, frozen=True)
class Manifest:
    """One staged data set. Written last, so that it never names an object that is not there."""

    schema_version: int = doc("Version of this record", default=MANIFEST_VERSION)
    name: str = doc("Data set")
    title: str = doc("Name for people")
    digest: str = doc("SHA-256 of the archive, 64 hex digits: its content address")
    size_bytes: int = doc("Size of the archive")
    source: str = doc("Address it was fetched from")
    licence: str = doc("Terms of use")
    homepage: str = doc("Where the publisher describes it")
    retrieved_at: str = doc("When it was fetched from the source, UTC, ISO 8601")
    bucket: str = doc("Bucket that holds it")
    object_key: str = doc("Key of the archive in the bucket")
    format: str = doc("Layout inside the archive")
    verified: tuple[str, ...] = doc("Checksums that were compared, and who published them")
    counts: tuple[SplitCount, ...] = doc("Images per split and class")
    classes: tuple[str, ...] = doc("Class names in label order")
    quality: tuple[QualityCheck, ...] = doc("Checks of the images")
    version: int = doc("Its number among the versions of its name; 0: none yet", default=0)

    @property
    def key(self) -> str:
        """Key of this manifest in the bucket."""
        return manifest_key(self.name, self.digest)


def manifest_key(name: str, digest: str) -> str:
    """Return the key of a manifest."""
    return f"manifests/{name}/{digest}.json"


def version_key(name: str, version: int) -> str:
    """Return the key of a version's own copy of its manifest."""
    return f"manifests/{name}/v{version}.json"


def archive_key(digest: str) -> str:
    """Return the key of an archive: its content address."""
    return f"datasets/sha256/{digest}"
