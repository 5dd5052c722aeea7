"""What an archive must be: its size and digests, taken while it streams."""

from __future__ import annotations

import hashlib

from trainyard.datasets.catalogue import DatasetSource
from trainyard.errors import DatasetError


class Hashes:
    """The digests of what came, in one pass."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sha256 = hashlib.sha256()
        # MD5 is compared because publishers state it; SHA-256 is what protects.
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(chunk)
        self._md5.update(chunk)

    def compare(self, source: DatasetSource, size: int) -> None:
        """Raise ``DatasetError`` naming found and expected where they differ."""
        sha256, md5 = self._sha256.hexdigest(), self._md5.hexdigest()
        by = f"published by: {source.checksum_source}" if source.checksum_source else "expected"
        where = f"data set {source.name} from {source.url}"
        if size != source.size_bytes:
            raise DatasetError(
                f"{where}: {size:,} bytes, expected {source.size_bytes:,} ({by}): the file is "
                "truncated or another version. Nothing was staged"
            )
        for kind, found, wanted in (("SHA-256", sha256, source.sha256), ("MD5", md5, source.md5)):
            if wanted and found != wanted:
                raise DatasetError(
                    f"{where}: {kind} is {found}, expected {wanted} ({by}). The file is damaged, "
                    "tampered with or another version; nothing was staged. Fetch again; if it "
                    "stays so, compare with the publisher's page "
                    f"{source.homepage} before changing the catalogue"
                )
