"""The data sets: prepared arrays on disk, memory-mapped, or made up; and how batches are read.

A prepared folder holds ``train_images.npy`` and ``test_images.npy`` (uint8, N x 32 x 32 x C),
``train_labels.npy`` and ``test_labels.npy`` (int64, N) and ``dataset.json`` with name, digest of
the archive and class names. Memory-mapped: ranks and loader workers of a node share one copy.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from trainer.contract import Dataset, RunSpec, Stall
from trainer.failures import DataError
from trainer.sampler import Indices, MicroSteps

Bytes = npt.NDArray[np.uint8]
SIZE = 32
CHANNELS = {Dataset.DIGITS: 1, Dataset.CIFAR10: 3, Dataset.SYNTHETIC: 3}
# Mean and standard deviation of the training pixels on a scale of 0 to 1, per channel.
STATISTICS = {
    Dataset.DIGITS: ((0.305,), (0.376,)),
    Dataset.CIFAR10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Dataset.SYNTHETIC: ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
SYNTHETIC_COUNTS = (50_000, 10_000)
SHIFT = 4
"""Largest shift of an augmented image, in pixels: the usual padding of 4 for CIFAR-10."""


class Images(Protocol):
    """Images that an index array reads: memory-mapped or made up."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, height, width, channels)."""

    def __getitem__(self, indices: Any) -> Any:
        """Return the images at *indices* as uint8."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Split:
    """Images and labels of the training or the test set."""

    images: Images
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)


@dataclass(kw_only=True, slots=True, frozen=True)
class Data:
    """A whole data set."""

    train: Split
    test: Split
    classes: int

    @property
    def channels(self) -> int:
        """Colour channels of the images."""
        return self.train.images.shape[3]


class SyntheticImages:
    """CIFAR-shaped images made on reading: a pattern per class under noise, equal everywhere.

    Nothing is stored but 10 patterns and 257 noise images, so 50,000 images cost no memory and a
    read costs about what reading a memory-mapped array costs.
    """

    def __init__(self, labels: npt.NDArray[np.int64], seed: int, offset: int) -> None:
        """Make images for *labels*; *offset* keeps the noise of two splits apart."""
        random = np.random.default_rng([seed, 0])
        coarse = random.integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
        self._patterns = np.kron(coarse, np.ones((1, 8, 8, 1), dtype=np.uint8)) // 2
        noise = np.random.default_rng([seed, 1]).integers(0, 128, (257, SIZE, SIZE, 3))
        self._noise = noise.astype(np.uint8)
        self._labels = labels
        self._offset = offset

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 32, 32, 3)."""
        return (len(self._labels), SIZE, SIZE, 3)

    def __getitem__(self, indices: Indices) -> Bytes:
        """Return the images at *indices*."""
        noise = self._noise[(indices + self._offset) % len(self._noise)]
        return self._patterns[self._labels[indices]] + noise


def synthetic(counts: tuple[int, int] = SYNTHETIC_COUNTS) -> Data:
    """Return the made-up data set: CIFAR-shaped, 10 balanced classes, always the same."""
    splits = []
    for offset, count in ((0, counts[0]), (101, counts[1])):
        labels = np.arange(count, dtype=np.int64) % 10
        splits.append(Split(images=SyntheticImages(labels, 20_240, offset), labels=labels))
    return Data(train=splits[0], test=splits[1], classes=10)


def load(spec: RunSpec, folder: Path | None) -> Data:
    """Return the data set of *spec* from the prepared *folder*.

    Raises ``DataError`` when files are missing, damaged, of another shape than the data set's,
    or belong to an archive with another digest than the spec names.
    """
    if spec.dataset is Dataset.SYNTHETIC:
        return synthetic()
    if folder is None:
        raise DataError(f"dataset = {spec.dataset.value!r} needs --data with its prepared folder")
    classes = _check_description(spec, folder)
    channels = CHANNELS[spec.dataset]
    splits = [_split(folder, name, channels, classes) for name in ("train", "test")]
    return Data(train=splits[0], test=splits[1], classes=classes)


def _check_description(spec: RunSpec, folder: Path) -> int:
    path = folder / "dataset.json"
    again = "Prepare it again: the fetch_dataset DAG, or `prepare` of trainyard.datasets"
    try:
        found = json.loads(path.read_text())
        name, digest, classes = found["name"], found["digest"], len(found["classes"])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. {again}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a description of a data set ({error!r}). {again}") from error
    if name != spec.dataset.value:
        raise DataError(f"{path}: holds {name!r}, the spec asks for {spec.dataset.value!r}")
    if digest != spec.dataset_digest:
        raise DataError(
            f"{path}: digest {digest} is not the spec's dataset_digest {spec.dataset_digest}. "
            f"{again}"
        )
    if classes < 2:  # noqa: PLR2004
        raise DataError(f"{path}: {classes} classes; a classifier needs 2 or more. {again}")
    return classes


def _split(folder: Path, name: str, channels: int, classes: int) -> Split:
    images = _array(folder / f"{name}_images.npy", np.uint8)
    labels = np.ascontiguousarray(_array(folder / f"{name}_labels.npy", np.int64))
    expected = (len(labels), SIZE, SIZE, channels)
    if images.shape != expected or labels.ndim != 1 or not len(labels):
        raise DataError(
            f"{folder}: {name}_images.npy has shape {images.shape} and {name}_labels.npy "
            f"{labels.shape}; expected {expected} with one label per image, at least one"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{folder}: {name}_labels.npy holds {labels.min()} to {labels.max()}; "
            f"dataset.json lists {classes} classes, so 0 to {classes - 1}"
        )
    return Split(images=images, labels=labels)


def _array(path: Path, dtype: type[Any]) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}. Prepare the data set again") from error
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path}: damaged or cut short ({error}). Prepare the data set again"
        ) from error
    if array.dtype != dtype:
        raise DataError(f"{path}: holds {array.dtype}, expected {np.dtype(dtype)}")
    found: npt.NDArray[Any] = array
    return found


def stall(spec: RunSpec, kind: Stall) -> None:
    """Wait as long as *spec* plants at a place of this *kind*; nothing in ordinary runs."""
    if spec.stall is kind:
        time.sleep(spec.stall_ms / 1000)


Batch = tuple[Tensor, Tensor, Tensor]
"""uint8 images (n, H, W, C), int64 labels (n,), int64 sample numbers; (empty share: see weight)."""


class BatchReader(TorchDataset[Batch]):
    """Reads the micro batch (epoch, indices) in one piece; an item of this data set is a batch."""

    def __init__(self, split: Split, spec: RunSpec) -> None:
        """Read *split*, augmented when *spec* says so."""
        self._split = split
        self._augment = spec.augment
        self._flip = spec.dataset is Dataset.CIFAR10
        self._seed = spec.seed
        self._spec = spec
        self._moves: tuple[int, npt.NDArray[np.int64]] | None = None

    def __getitem__(self, item: tuple[int, Indices]) -> Batch:
        """Return the batch; for an empty share sample 0 as a stand-in, with no sample number."""
        epoch, indices = item
        stall(self._spec, Stall.INPUT)
        read = indices if len(indices) else np.zeros(1, dtype=np.int64)
        images = self._split.images[read]
        if self._augment:
            images = self._augmented(images, read, epoch)
        return (
            torch.from_numpy(np.ascontiguousarray(images)),
            torch.from_numpy(self._split.labels[read]),
            torch.from_numpy(indices),
        )

    def _augmented(self, images: Bytes, indices: Indices, epoch: int) -> Bytes:
        """Shift and flip by moves drawn per epoch and sample: the same on any number of ranks."""
        if self._moves is None or self._moves[0] != epoch:
            random = np.random.default_rng([self._seed, epoch, 1])
            drawn = random.integers(0, [2 * SHIFT + 1, 2 * SHIFT + 1, 2], (len(self._split), 3))
            self._moves = (epoch, drawn)
        down, right, flip = self._moves[1][indices].T
        if self._flip:
            images = np.where(flip[:, None, None, None] == 1, images[:, :, ::-1], images)
        edge = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
        padded = np.pad(images, edge)
        rows = down[:, None] + np.arange(SIZE)
        columns = right[:, None] + np.arange(SIZE)
        sample = np.arange(len(images))[:, None, None]
        shifted: Bytes = padded[sample, rows[:, :, None], columns[:, None, :]]
        return shifted


def loader(reader: BatchReader, steps: MicroSteps, spec: RunSpec, pin: bool) -> DataLoader[Batch]:
    """Return a DataLoader over all micro steps of a rank: one iterator for the whole run.

    Epoch borders are no borders for it, so workers are started once and never drain.
    """
    workers = spec.loader_workers
    return DataLoader(
        reader,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=spec.prefetch_factor if workers else None,
        pin_memory=pin,
        timeout=spec.collective_timeout_s if workers else 0,
        generator=torch.Generator(),  # its draw of a base seed must not move the run's own state
    )


class Normaliser:
    """Turns stored bytes into network input on the rank's device."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        """Use the data set's pixel statistics and the memory format of *spec*."""
        mean, deviation = (torch.tensor(v).view(1, -1, 1, 1) for v in STATISTICS[spec.dataset])
        self._scale = (1 / (255 * deviation)).to(device)
        self._shift = (-mean / deviation).to(device)
        self._device = device
        self._format = torch.channels_last if spec.channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 (n, H, W, C) as normalised float32 (n, C, H, W)."""
        moved = images.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        return (
            moved.to(torch.float32, memory_format=self._format).mul_(self._scale).add_(self._shift)
        )
