"""How much a cache may hold: bytes, or a share of the file system it lies on. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMGT]I?B|B|)", re.IGNORECASE)


@dataclass(kw_only=True, slots=True, frozen=True)
class Limit:
    """Either a number of bytes or a share of the disk."""

    size_bytes: int = 0
    """Bytes; 0 when *share* counts."""
    share: float = 0.0
    """Part of the whole file system, above 0 and at most 1; 0 when *size_bytes* counts."""

    def __post_init__(self) -> None:
        """Refuse both, none, and what no disk has."""
        if (self.size_bytes > 0) == (self.share > 0) or not 0 <= self.share <= 1:
            raise ValueError(
                f"cache limit of {self.size_bytes} bytes, share {self.share}: give exactly one, "
                "bytes above 0 or a share of the disk above 0 and at most 1"
            )

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Return the limit *text* names: ``200 GB``, ``64 GiB``, plain bytes, or ``50%``.

        Raises ``ValueError`` naming the forms.
        """
        found = _TEXT.fullmatch(text.strip())
        if not found or not float(found[1]):
            raise ValueError(
                f"cache limit {text!r}: write bytes (64000000000), a size (64 GB, 60 GiB), or a "
                "share of the disk (50%); more than 0"
            )
        number, unit = float(found[1]), found[2].upper()
        if unit == "%":
            return cls(share=number / 100)
        return cls(size_bytes=int(number * _UNITS[unit if unit != "B" else ""]))

    def in_bytes(self, disk_bytes: int) -> int:
        """Return the limit on a file system of *disk_bytes*."""
        return self.size_bytes or int(self.share * disk_bytes)
