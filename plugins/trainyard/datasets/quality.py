"""Quality checks of the images themselves, on the prepared arrays, with flat memory.

They answer what a checksum cannot: is this the data set its description promises, is it balanced,
and does the test split leak into the training split? Verdicts are stored with the manifest; a
``failed`` one stops staging.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainyard.datasets.arrays import SPLITS, blocks, load
from trainyard.datasets.formats import Expected, Raw
from trainyard.datasets.manifest import QualityCheck, SplitCount, Verdict

_ROWS = 1_024
BALANCE_PASSES, BALANCE_WARNS = 0.5, 0.05
"""Smallest over largest class."""
SPREAD_PASSES, SPREAD_WARNS = 128, 2
"""Largest minus smallest pixel value of 255."""
DUPLICATES_WARN, LEAK_WARNS = 0.10, 0.01
"""Share of images that may repeat: inside the training split, and of test in training."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Inspection:
    """Counts and checks of one data set."""

    counts: tuple[SplitCount, ...]
    """Images per split and class."""
    checks: tuple[QualityCheck, ...]
    """All checks, in a fixed order."""

    @property
    def failed(self) -> tuple[QualityCheck, ...]:
        """The checks that stop staging."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)


@dataclass(slots=True)
class _Pixels:
    """What one pass over the images of a split found."""

    digests: np.ndarray[Any, Any]
    """One uint64 per image: 8 bytes each, so ten million images take 80 MB."""
    lowest: int = 255
    highest: int = 0
    blank: int = 0


def inspect(folder: Path, expected: Expected, raw: Raw) -> Inspection:
    """Return counts and checks of the arrays in *folder*, reading every image once."""
    counts, pixels = {}, {}
    for split in SPLITS:
        labels = load(folder, split, "labels")
        counts[split] = np.bincount(labels, minlength=expected.classes)
        pixels[split] = _scan(folder, split, len(labels))
    checks = [_non_finite(raw), _source_range(raw)]
    for split, wanted in (("train", expected.train), ("test", expected.test)):
        checks.append(_count(split, int(counts[split].sum()), wanted))
        checks.append(_label_range(split, counts[split], expected.classes))
        checks.append(_balance(split, counts[split]))
        checks.append(_spread(split, pixels[split]))
        checks.append(_blank(split, pixels[split].blank, wanted))
        checks.append(_repeats(split, pixels[split].digests, wanted))
    checks.append(_leak(pixels["train"].digests, pixels["test"].digests, expected.test))
    return Inspection(
        counts=tuple(
            SplitCount(
                split=split,
                images=int(counts[split].sum()),
                per_class=tuple(int(n) for n in counts[split]),
            )
            for split in SPLITS
        ),
        checks=tuple(checks),
    )


def _scan(folder: Path, split: str, images: int) -> _Pixels:
    found = _Pixels(np.empty(images, dtype=np.uint64))
    first = 0
    for block in blocks(folder, split, _ROWS):
        rows = block.reshape(len(block), -1)
        low, high = rows.min(axis=1), rows.max(axis=1)
        found.lowest = min(found.lowest, int(low.min()))
        found.highest = max(found.highest, int(high.max()))
        found.blank += int((low == high).sum())
        # Of ten million different images two share 64 bits with a chance of 3 in a million.
        for row, pixels in enumerate(rows, first):
            found.digests[row] = int.from_bytes(
                hashlib.blake2b(pixels.data, digest_size=8).digest(), "big"
            )
        first += len(rows)
    return found


def _check(name: str, passed: bool, warned: bool, measured: str, requirement: str) -> QualityCheck:
    verdict = Verdict.PASSED if passed else Verdict.WARN if warned else Verdict.FAILED
    return QualityCheck(name=name, verdict=verdict, measured=measured, requirement=requirement)


def _non_finite(raw: Raw) -> QualityCheck:
    n = raw.non_finite
    return _check("non_finite", n == 0, False, f"{n} NaN or infinite values", "none")


def _source_range(raw: Raw) -> QualityCheck:
    low, high = raw.allowed
    inside = low <= raw.lowest <= raw.highest <= high
    measured = f"{raw.lowest:g} to {raw.highest:g} in the archive"
    return _check("source_range", inside, False, measured, f"within {low:g} to {high:g}")


def _count(split: str, found: int, wanted: int) -> QualityCheck:
    return _check(
        f"count_{split}", found == wanted, False, f"{found:,} images", f"exactly {wanted:,}"
    )


def _label_range(split: str, counts: np.ndarray[Any, Any], classes: int) -> QualityCheck:
    used = np.flatnonzero(counts)
    measured = f"labels {int(used.min())} to {int(used.max())}, {len(used)} classes used"
    return _check(
        f"label_range_{split}",
        len(counts) == classes and len(used) == classes,
        len(counts) == classes and split == "test",
        measured,
        f"every label of 0 to {classes - 1} and no other; a class missing from test warns",
    )


def _balance(split: str, counts: np.ndarray[Any, Any]) -> QualityCheck:
    low, high = int(counts.min()), int(counts.max())
    ratio = low / high
    return _check(
        f"class_balance_{split}",
        ratio >= BALANCE_PASSES,
        ratio >= BALANCE_WARNS,
        f"{ratio:.3f} (smallest class {low:,}, largest {high:,} images)",
        f"smallest / largest >= {BALANCE_PASSES}; >= {BALANCE_WARNS} warns",
    )


def _spread(split: str, pixels: _Pixels) -> QualityCheck:
    spread = pixels.highest - pixels.lowest
    return _check(
        f"value_range_{split}",
        spread >= SPREAD_PASSES,
        spread >= SPREAD_WARNS,
        f"{pixels.lowest} to {pixels.highest} of 0 to 255",
        f"spread >= {SPREAD_PASSES}; >= {SPREAD_WARNS} warns",
    )


def _blank(split: str, blank: int, images: int) -> QualityCheck:
    return _check(
        f"blank_images_{split}",
        blank == 0,
        blank <= images // 10,
        f"{blank:,} of {images:,} images of one single value",
        "none; up to a tenth warns",
    )


def _repeats(split: str, digests: np.ndarray[Any, Any], images: int) -> QualityCheck:
    repeated = images - len(np.unique(digests))
    share = repeated / images
    return _check(
        f"duplicates_{split}",
        repeated == 0,
        share <= DUPLICATES_WARN,
        f"{repeated:,} images ({share:.3%}) repeat another, byte by byte",
        f"none; up to {DUPLICATES_WARN:.0%} warns",
    )


def _leak(train: np.ndarray[Any, Any], test: np.ndarray[Any, Any], images: int) -> QualityCheck:
    leaked = int(np.isin(test, train).sum())
    share = leaked / images
    return _check(
        "duplicates_across_splits",
        leaked == 0,
        share <= LEAK_WARNS,
        f"{leaked:,} test images ({share:.3%}) are in the training split, byte by byte",
        f"none; up to {LEAK_WARNS:.0%} warns",
    )


def channel_moments(folder: Path) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of the training images, as shares of 255.

    Sums are exact integers, so every machine gets the same numbers.
    """
    values = np.arange(256, dtype=np.int64)
    counts: dict[int, np.ndarray[Any, Any]] = {}
    for block in blocks(folder, "train", _ROWS):
        for channel, pixels in enumerate(np.moveaxis(block, 3, 0)):
            found = np.bincount(pixels.ravel(), minlength=256)
            counts[channel] = counts[channel] + found if channel in counts else found
    mean, std = [], []
    for seen in counts.values():
        n = int(seen.sum())
        total, squares = int((seen * values).sum()), int((seen * values**2).sum())
        mean.append(total / n / 255)
        std.append((n * squares - total * total) ** 0.5 / n / 255)
    return mean, std
