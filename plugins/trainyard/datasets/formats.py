"""Readers: from a verified archive to the prepared arrays, with flat memory.

``convert`` is the one entry; every reader checks that the archive holds exactly the images that
its description promises.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainyard.datasets.archive import Content, Limits, members, open_gzip
from trainyard.datasets.arrays import ArraySet, Shape
from trainyard.datasets.catalogue import Format
from trainyard.errors import DatasetError

LAYOUT = 1
"""Version of what ``convert`` makes; a prepared folder of another version is made again."""

_DIGITS_SIDE = 8
_DIGITS_TOP = 16
_SCALE = 4
_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _SIDE**2
_RECORDS_AT_ONCE = 1_000


@dataclass(kw_only=True, slots=True, frozen=True)
class Raw:
    """What the values were before they became bytes."""

    lowest: float
    """Smallest finite value."""
    highest: float
    """Largest finite value."""
    non_finite: int
    """NaN and infinite values."""
    allowed: tuple[float, float]
    """Range the format defines."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Expected:
    """What an archive must hold; from the catalogue when staging, from the manifest after."""

    format: Format
    """Layout inside the archive."""
    classes: int
    """Number of classes; labels are 0 to one less."""
    train: int
    """Images of the training split."""
    test: int
    """Images of the test split."""

    @property
    def shape(self) -> Shape:
        """Size of the prepared data set."""
        channels = 1 if self.format is Format.DIGITS_CSV else 3
        return Shape(train=self.train, test=self.test, image=(_SIDE, _SIDE, channels))


def convert(archive: Path, expected: Expected, folder: Path) -> Raw:
    """Write the four arrays into *folder*, which must exist and be empty.

    Raises ``DatasetError`` when the archive is hostile, damaged or not as described, and
    ``UnavailableError`` when the disk is full.
    """
    reader = _READERS[expected.format]
    with ArraySet(folder, expected.shape, expected.classes) as arrays:
        return reader(archive, expected, arrays)


def upsample(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return (n, 8, 8) values of 0 to 16 as (n, 32, 32, 1) bytes of 0 to 255.

    Bilinear with half-pixel centres and clamped edges (what ``torch.nn.functional.interpolate``
    does with ``mode="bilinear", align_corners=False``). Positions are odd multiples of 1/8, so
    the weights are exact in integers and every machine makes the same bytes:
    ``round(255 / 16 · Σ w·v / 64)``, halves up.
    """
    weights = _weights()
    wide = weights @ images.astype(np.int64) @ weights.T
    scaled = (wide * 255 * 2 + 64 * _DIGITS_TOP) // (2 * 64 * _DIGITS_TOP)
    return np.asarray(scaled.astype(np.uint8)[..., np.newaxis])


def _weights() -> np.ndarray[Any, Any]:
    """Return the (32, 8) interpolation matrix in eighths."""
    matrix = np.zeros((_DIGITS_SIDE * _SCALE, _DIGITS_SIDE), dtype=np.int64)
    for row in range(len(matrix)):
        eighths = max(2 * row + 1 - _SCALE, 0)  # 8 · ((row + 1/2) / 4 - 1/2)
        low, weight = divmod(eighths, 8)
        matrix[row, low] += 8 - weight
        matrix[row, min(low + 1, _DIGITS_SIDE - 1)] += weight
    return matrix


def split_test(values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return which rows (n,) are the test split: a fifth of each class, rounded down.

    Within a class the rows with the smallest SHA-256 of (row number, pixels) are taken: as good as
    random, and the same for ever, which no library promises of its random numbers.
    """
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        ordered = sorted(rows, key=lambda row: _row_hash(int(row), values[row]))
        test[ordered[: len(rows) // 5]] = True
    return test


def _row_hash(row: int, values: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256(row.to_bytes(8, "big") + values.astype("|u1").tobytes()).digest()


def _digits(archive: Path, expected: Expected, arrays: ArraySet) -> Raw:
    rows = expected.train + expected.test
    with open_gzip(archive, Limits(total_bytes=64 * 2**20)) as stream:
        table = _table(stream, archive, rows)
    finite = np.isfinite(table)
    values = table[:, :-1]
    raw = Raw(
        lowest=float(values[finite[:, :-1]].min()),
        highest=float(values[finite[:, :-1]].max()),
        non_finite=int((~finite).sum()),
        allowed=(0.0, float(_DIGITS_TOP)),
    )
    if raw.non_finite or raw.lowest < 0 or raw.highest > _DIGITS_TOP:
        raise DatasetError(
            f"archive {archive.name}: values {raw.lowest:g} to {raw.highest:g}, {raw.non_finite} "
            f"of them not finite: must be finite and in 0 to {_DIGITS_TOP}"
        )
    labels = table[:, -1].astype(np.int64)
    test = split_test(values, labels)
    images = upsample(values.reshape(-1, _DIGITS_SIDE, _DIGITS_SIDE))
    for split, chosen in (("train", ~test), ("test", test)):
        arrays.write(split, 0, images[chosen], labels[chosen])
    return raw


def _table(stream: IO[bytes], archive: Path, rows: int) -> np.ndarray[Any, Any]:
    try:
        table = np.loadtxt(stream, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DatasetError(f"archive {archive.name}: not a table of numbers: {error}") from error
    if table.shape != (rows, _DIGITS_SIDE**2 + 1):
        raise DatasetError(
            f"archive {archive.name}: {table.shape[0]} rows of {table.shape[1]} numbers: must be "
            f"{rows} of {_DIGITS_SIDE**2 + 1} (64 pixels and the label)"
        )
    return table


def _cifar(archive: Path, expected: Expected, arrays: ArraySet) -> Raw:
    """Read data_batch_1.bin … and test_batch.bin: records of a label byte and 3 x 1024 bytes."""
    room = (expected.train + expected.test) * _CIFAR_RECORD + 16 * 2**20
    limits = Limits(total_bytes=room)
    batches = _Batches(archive, arrays)
    for name, size, content in members(archive, limits):
        batches.take(name.rsplit("/", 1)[-1], size, content)
    batches.finish()
    return Raw(lowest=batches.lowest, highest=batches.highest, non_finite=0, allowed=(0.0, 255.0))


class _Batches:
    """Puts training batches in the order of their numbers, whatever their order in the archive.

    All batches but the last must be of one size, as in the original (10,000 records).
    """

    def __init__(self, archive: Path, arrays: ArraySet) -> None:
        self._archive = archive
        self._arrays = arrays
        self._batch_records = 0
        self.lowest, self.highest = 255, 0

    def take(self, name: str, size: int, content: Content) -> None:
        numbered = re.fullmatch(r"data_batch_([1-9][0-9]{0,3})\.bin", name)
        if not numbered and name != "test_batch.bin":
            return
        if size % _CIFAR_RECORD:
            raise DatasetError(
                f"archive {self._archive.name}: {name} has {size:,} bytes: must be a multiple of "
                f"{_CIFAR_RECORD} (a label and 3 x 32 x 32 values)"
            )
        first = 0
        if numbered:
            records = size // _CIFAR_RECORD
            self._batch_records = self._batch_records or records
            if records != self._batch_records:
                raise DatasetError(
                    f"archive {self._archive.name}: {name} has {records} records, another batch "
                    f"{self._batch_records}: training batches must be of one size"
                )
            first = (int(numbered[1]) - 1) * records
        self._pour("train" if numbered else "test", first, content)

    def _pour(self, split: str, first: int, content: Content) -> None:
        while block := content.read(_RECORDS_AT_ONCE * _CIFAR_RECORD):
            records = np.frombuffer(block, dtype=np.uint8).reshape(-1, _CIFAR_RECORD)
            pixels = records[:, 1:]
            self.lowest = min(self.lowest, int(pixels.min()))
            self.highest = max(self.highest, int(pixels.max()))
            planes = pixels.reshape(-1, 3, _SIDE, _SIDE)
            labels = records[:, 0].astype(np.int64)
            self._arrays.write(split, first, planes.transpose(0, 2, 3, 1), labels)
            first += len(records)

    def finish(self) -> None:
        if not self._batch_records:
            raise DatasetError(
                f"archive {self._archive.name}: holds no data_batch_N.bin; is it the binary "
                "version of the data set?"
            )


_READERS: dict[Format, Callable[[Path, Expected, ArraySet], Raw]] = {
    Format.DIGITS_CSV: _digits,
    Format.CIFAR_BINARY: _cifar,
}
