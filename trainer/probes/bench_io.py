"""Disk reads and the data loader, in the folders that runs use."""

from __future__ import annotations

import mmap
import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trainer.machine import usable_cores
from trainer.probes.found import Found, Place
from trainer.probes.timing import Limit, rate, repeat

_BLOCK = 1 << 20
_PAGE = 4096
_NO_LIMIT = Limit(source="the device behind the file system is not known")


def disk(place: Place) -> Found:
    """Measure sequential and random reads that bypass the page cache (O_DIRECT)."""
    found = Found()
    size = (32 if place.quick else 128) << 20
    with _file(place.run_dir, size) as path:
        descriptor, how = _open(path)
        try:
            _reads(found, descriptor, size, how, quick=place.quick)
        finally:
            os.close(descriptor)
    return found


@contextmanager
def _file(folder: Path, size: int) -> Iterator[Path]:
    """Write a file of *size* random bytes, on the disk and out of the cache."""
    path = folder / f".probe-{uuid.uuid4().hex}"
    block = os.urandom(_BLOCK)
    try:
        with path.open("wb") as file:
            for _ in range(size // _BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _open(path: Path) -> tuple[int, str]:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), ""
    except OSError:  # tmpfs and some network file systems refuse it
        doubt = "the file system refuses O_DIRECT: reads may come from memory"
        return os.open(path, os.O_RDONLY), doubt


def _reads(found: Found, descriptor: int, size: int, doubt: str, *, quick: bool) -> None:
    seconds = 0.4 if quick else 1.5
    block = mmap.mmap(-1, _BLOCK)  # aligned to pages, as O_DIRECT wants

    def sequential() -> None:
        for offset in range(0, size, _BLOCK):
            os.preadv(descriptor, [block], offset)

    timed = repeat(sequential, seconds=seconds)
    found.measurements.append(
        rate("disk.sequential_read", timed, amount=size, unit="B/s", limit=_NO_LIMIT, doubt=doubt)
    )
    page = mmap.mmap(-1, _PAGE)
    chosen = random.Random(0)  # noqa: S311 - offsets, no secret
    offsets = [chosen.randrange(size // _PAGE) * _PAGE for _ in range(256)]

    def scattered() -> None:
        for offset in offsets:
            os.preadv(descriptor, [page], offset)

    timed = repeat(scattered, seconds=seconds)
    found.measurements.append(
        rate(
            "disk.random_read",
            timed,
            amount=len(offsets),
            unit="1/s",
            limit=Limit(source="4 KiB reads, one at a time: the device's latency is not known"),
            doubt=doubt,
        )
    )


class _Images(Dataset[torch.Tensor]):
    """Images in a file, read one at a time: (3, 32, 32) bytes to float32, as a loader would."""

    def __init__(self, path: Path, count: int) -> None:
        self._pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=(count, 3, 32, 32))

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._pixels[index].astype(np.float32) / 255)


def loader(place: Place) -> Found:
    """Measure a DataLoader over a file of small images, without and with worker processes."""
    found, batch = Found(), 64
    size = (4 if place.quick else 12) << 20
    count = size // (3 * 32 * 32)
    with _file(place.run_dir, size) as path:
        images = _Images(path, count)
        for workers in (0,) if place.quick else (0, usable_cores()):
            loaded: DataLoader[torch.Tensor] = DataLoader(
                images, batch_size=batch, num_workers=workers, persistent_workers=workers > 0
            )
            timed = repeat(lambda it=loaded: sum(len(part) for part in it), seconds=0.5)  # type: ignore[misc]
            found.measurements.append(
                rate(
                    f"loader.workers_{workers}",
                    timed,
                    amount=count,
                    unit="image/s",
                    limit=Limit(source="bound by Python on the cores, which has no known limit"),
                )
            )
    return found
