"""The prepared layout: four ``.npy`` files, written in place at any order, reserved beforehand.

``train_images.npy`` and ``test_images.npy`` are uint8 (images, height, width, channels),
``train_labels.npy`` and ``test_labels.npy`` int64 (images,); all little-endian, C order. Written
through the file, not through a memory map: on a full disk a map kills the process with SIGBUS,
a write raises an error that can be explained. Memory stays flat either way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from trainyard.errors import DatasetError
from trainyard.files import disk_errors, reserve

SPLITS = ("train", "test")
_HEADER_ROOM = 256


@dataclass(kw_only=True, slots=True, frozen=True)
class Shape:
    """Size of a prepared data set."""

    train: int
    """Training images."""
    test: int
    """Test images."""
    image: tuple[int, int, int]
    """Height, width, channels."""

    def images(self, split: str) -> int:
        """Return the number of images of *split*."""
        return self.train if split == "train" else self.test

    @property
    def size_bytes(self) -> int:
        """Bytes of the four files together."""
        height, width, channels = self.image
        return (self.train + self.test) * (height * width * channels + 8) + 4 * _HEADER_ROOM


class ArrayWriter:
    """Writes rows of one ``.npy`` file at any position, and knows which it has written."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        """Create *path* with its whole size reserved; raises ``OSError`` when there is no room."""
        self._rows = np.zeros(shape[0], dtype=bool)
        self._row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        self._dtype = np.dtype(dtype)
        self._path = path
        self._file: BinaryIO = path.open("wb")
        try:
            header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(self._file, header)
            self._start = self._file.tell()
            reserve(self._file, self._start + shape[0] * self._row_bytes)
        except BaseException:
            self._file.close()
            raise

    def write(self, first: int, rows: np.ndarray[Any, Any]) -> None:
        """Put *rows* at row *first*; raises ``DatasetError`` outside the file or written twice."""
        last = first + len(rows)
        if last > len(self._rows) or self._rows[first:last].any():
            raise DatasetError(
                f"{self._path.name}: rows {first} to {last} do not fit {len(self._rows)} rows, or "
                "come twice: the archive holds more images than its description says"
            )
        self._file.seek(self._start + first * self._row_bytes)
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows[first:last] = True

    def close(self) -> None:
        """Make the file durable; raises ``DatasetError`` when rows are missing."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if not self._rows.all():
            raise DatasetError(
                f"{self._path.name}: {int((~self._rows).sum())} of {len(self._rows)} images are "
                "missing from the archive"
            )

    def abandon(self) -> None:
        """Close without any promise."""
        self._file.close()


class ArraySet:
    """The four files of one data set, as a context manager; complete when the block ends well."""

    def __init__(self, folder: Path, shape: Shape, classes: int) -> None:
        """*folder* must exist and be empty; *classes* bounds the labels."""
        self._folder = folder
        self.shape = shape
        self._classes = classes
        self._writers: dict[str, ArrayWriter] = {}

    def __enter__(self) -> ArraySet:
        """Create and reserve the files; none stays open when there is no room."""
        try:
            with disk_errors(self._folder, self.shape.size_bytes, "the prepared data set"):
                for split in SPLITS:
                    count = self.shape.images(split)
                    self._create(f"{split}_images", (count, *self.shape.image), "|u1")
                    self._create(f"{split}_labels", (count,), "<i8")
        except BaseException:
            self._abandon()
            raise
        return self

    def _create(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._writers[name] = ArrayWriter(self._folder / f"{name}.npy", shape, dtype)

    def _abandon(self) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def write(
        self, split: str, first: int, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
    ) -> None:
        """Put images (n, height, width, channels) and labels (n,) at row *first* of *split*."""
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self._classes:
            raise DatasetError(
                f"{split} labels {int(labels.min())} to {int(labels.max())}: must lie in 0 to "
                f"{self._classes - 1}; the archive is not what its description says"
            )
        with disk_errors(self._folder, self.shape.size_bytes, "the prepared data set"):
            self._writers[f"{split}_images"].write(first, images)
            self._writers[f"{split}_labels"].write(first, labels)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Close the files, and check that every row was written when the block ended well."""
        try:
            if kind is None:
                with disk_errors(self._folder, self.shape.size_bytes, "the prepared data set"):
                    for writer in self._writers.values():
                        writer.close()
        finally:
            self._abandon()


def load(folder: Path, split: str, kind: str) -> np.memmap[Any, Any]:
    """Return one prepared array, memory-mapped and read-only."""
    mapped: np.memmap[Any, Any] = np.load(folder / f"{split}_{kind}.npy", mmap_mode="r")
    return mapped


def blocks(folder: Path, split: str, rows: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the images of *split*, up to *rows* at a time, read and not mapped.

    Pages of a map stay in the resident size of the process that read them; one pass over a large
    data set would then look, to a limit on memory, as if all of it were held.
    """
    mapped = load(folder, split, "images")
    shape, start, dtype = mapped.shape, mapped.offset, mapped.dtype
    del mapped
    with (folder / f"{split}_images.npy").open("rb") as stream:
        stream.seek(start)
        for first in range(0, shape[0], rows):
            count = min(rows, shape[0] - first) * int(np.prod(shape[1:]))
            yield np.fromfile(stream, dtype=dtype, count=count).reshape(-1, *shape[1:])
