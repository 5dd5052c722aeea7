"""A prepared data set as an entry: its key and its digests follow from ``dataset.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.cache.errors import DamagedError

DESCRIPTION = "dataset.json"


@dataclass(kw_only=True, slots=True, frozen=True)
class DatasetEntry:
    """What ``dataset.json`` makes of a data set."""

    key: str
    """The archive's digest and the description's: another preparation is another entry."""
    digests: Mapping[str, str]
    """SHA-256 by file name, the description's own included."""
    sizes: Mapping[str, int]
    """Bytes by file name, the description's own included."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    @classmethod
    def read(cls, text: bytes, where: str) -> DatasetEntry:
        """Return what *text* describes; raises ``DamagedError`` naming *where* it came from."""
        try:
            found = json.loads(text)
            files = found["files"].items()
            digests = {str(name): str(fact["sha256"]) for name, fact in files}
            sizes = {str(name): int(fact["size_bytes"]) for name, fact in files}
            archive = str(found["digest"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(
                f"{where}: not a description of a data set ({error!r}). Prepare it again: the "
                "fetch_dataset DAG, or `prepare` of trainyard.datasets"
            ) from error
        digest = hashlib.sha256(text).hexdigest()
        return cls(
            key=f"{archive}.{digest[:16]}",
            digests={**digests, DESCRIPTION: digest},
            sizes={**sizes, DESCRIPTION: len(text)},
        )
