"""The made-up data set, augmentation that no division changes, and the loader's settings."""

import numpy as np
import torch

from tests.trainer.conftest import make_spec
from trainer.contract import Dataset
from trainer.controls import replayed, resident
from trainer.data import BatchReader, loader, synthetic
from trainer.sampler import MicroSteps, Plan

SPEC = make_spec(dataset=Dataset.CIFAR10, augment=True)
DATA = synthetic((60, 20))


def test_synthetic_is_cifar_shaped_balanced_and_always_the_same():
    data = synthetic()
    assert data.train.images.shape == (50_000, 32, 32, 3)
    assert (len(data.test), data.classes, data.channels) == (10_000, 10, 3)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    some = np.array([5, 49_999, 0])
    images = data.train.images[some]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, synthetic().train.images[some])
    assert (data.train.images[some] != data.test.images[some % 20]).any()


def test_synthetic_classes_can_be_told_apart():
    images = DATA.train.images[np.arange(60)].astype(float)
    centres = np.stack([images[DATA.train.labels == c].mean(0) for c in range(10)])
    distance = ((images[:, None] - centres[None]) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == DATA.train.labels).all()


def test_augmentation_depends_on_epoch_and_sample_only():
    reader, other = BatchReader(DATA.train, SPEC), BatchReader(DATA.train, SPEC)
    whole = reader[3, np.arange(20)][0]
    parts = torch.cat([other[3, np.arange(7)][0], other[3, np.arange(7, 20)][0]])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, reader[4, np.arange(20)][0])


def test_augmented_images_are_shifted_and_flipped_copies():
    reader = BatchReader(DATA.train, SPEC)
    plain = DATA.train.images[np.arange(60)]
    moved = reader[0, np.arange(60)][0].numpy()
    flips = 0
    for source, image in zip(plain, moved, strict=True):
        found = []
        for flip in (0, 1):
            padded = np.pad(source[:, ::-1] if flip else source, ((4, 4), (4, 4), (0, 0)))
            found += [
                flip
                for down in range(9)
                for right in range(9)
                if np.array_equal(padded[down : down + 32, right : right + 32], image)
            ]
        assert found
        flips += found[0]
    assert 10 < flips < 50


def test_no_augmentation_reads_the_bytes():
    reader = BatchReader(DATA.train, make_spec(dataset=Dataset.SYNTHETIC))
    images, labels, numbers = reader[0, np.array([4, 9])]
    np.testing.assert_array_equal(images.numpy(), DATA.train.images[np.array([4, 9])])
    assert labels.tolist() == [4, 9]
    assert numbers.tolist() == [4, 9]


def test_loader_passes_the_settings_on_and_leaves_the_random_state():
    plan = Plan(samples=60, per_rank_batch=16, ranks=1)
    steps = MicroSteps(plan=plan, rank=0, first=0, last=8)
    reader = BatchReader(DATA.train, SPEC)
    before = torch.get_rng_state()
    made = loader(reader, steps, make_spec(loader_workers=2, prefetch_factor=5), False)
    assert (made.num_workers, made.prefetch_factor) == (2, 5)
    batches = list(loader(reader, steps, SPEC, False))
    assert [len(labels) for _, labels, _ in batches] == [16, 16, 16, 12] * 2
    assert torch.equal(torch.get_rng_state(), before)


def test_resident_batches_have_the_planned_sizes():
    plan = Plan(samples=33, per_rank_batch=8, ranks=2)  # steps of 16, 16 and 1: rank 1 idles
    for rank, expected in ((0, [8, 8, 1]), (1, [8, 8, 0])):
        steps = MicroSteps(plan=plan, rank=rank, first=0, last=3)
        reader = BatchReader(DATA.train, make_spec(dataset=Dataset.SYNTHETIC))
        batches = list(resident(steps, reader, torch.device("cpu")))
        assert [len(numbers) for _, _, numbers in batches] == expected
        assert [len(images) for images, _, _ in batches] == [max(1, n) for n in expected]


def test_replayed_steps():
    spec = make_spec(warmup_steps=10, window_steps=20, control_windows=3)
    assert replayed(spec, 5) == [50, 70, 90]
    assert replayed(spec, 2) == [10, 30, 10]
    assert replayed(spec, 0) == [10, 10, 10]
