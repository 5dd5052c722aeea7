"""Quality checks: each one passes, warns and fails on images made for it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fixtures.datasets import tiny
from trainyard.datasets.arrays import ArraySet, load
from trainyard.datasets.catalogue import Format
from trainyard.datasets.formats import Expected, Raw
from trainyard.datasets.manifest import Verdict
from trainyard.datasets.quality import channel_moments, inspect

CLEAN = Raw(lowest=0, highest=255, non_finite=0, allowed=(0, 255))
PASSED, WARN, FAILED = Verdict.PASSED, Verdict.WARN, Verdict.FAILED


class Pictures:
    """100 training and 50 test images of five classes, to be spoilt by a test."""

    def __init__(self):
        made = tiny(per_batch=100, batches=1, test=50)
        self.images = {"train": made.train_images.copy(), "test": made.test_images.copy()}
        self.labels = {"train": made.train_labels.copy(), "test": made.test_labels.copy()}

    def inspect(self, folder, raw=CLEAN, **wanted):
        expected = Expected(
            format=Format.CIFAR_BINARY,
            classes=wanted.get("classes", 5),
            train=len(self.labels["train"]),
            test=len(self.labels["test"]),
        )
        with ArraySet(folder, expected.shape, expected.classes) as arrays:
            for split in ("train", "test"):
                arrays.write(split, 0, self.images[split], self.labels[split])
        return inspect(folder, expected, raw)


@pytest.fixture
def pictures():
    return Pictures()


def verdict(inspection, name):
    return next(check for check in inspection.checks if check.name == name)


def test_clean_pictures_pass_every_check(tmp_path, pictures):
    found = pictures.inspect(tmp_path)
    assert {check.verdict for check in found.checks} == {PASSED}
    assert len({check.name for check in found.checks}) == len(found.checks) == 15
    assert found.failed == ()
    assert [(count.split, count.images, count.per_class) for count in found.counts] == [
        ("train", 100, (20,) * 5),
        ("test", 50, (10,) * 5),
    ]


@pytest.mark.parametrize(("copies", "expected"), [(0, PASSED), (10, WARN), (11, FAILED)])
def test_duplicates_inside_the_training_split(tmp_path, pictures, copies, expected):
    pictures.images["train"][50 : 50 + copies] = pictures.images["train"][0]
    check = verdict(pictures.inspect(tmp_path), "duplicates_train")
    assert check.verdict is expected
    assert check.measured.startswith(f"{copies} images")


@pytest.mark.parametrize(("copies", "expected"), [(0, PASSED), (2, WARN), (3, FAILED)])
def test_test_images_that_leak_into_training(tmp_path, pictures, copies, expected):
    pictures.images["test"] = np.concatenate([pictures.images["test"]] * 4)
    pictures.labels["test"] = np.concatenate([pictures.labels["test"]] * 4)
    pictures.images["test"][:copies] = pictures.images["train"][:copies]
    check = verdict(pictures.inspect(tmp_path), "duplicates_across_splits")
    assert check.verdict is expected
    assert check.measured.startswith(f"{copies} test images")


@pytest.mark.parametrize(
    ("smallest", "expected"), [(13, PASSED), (9, WARN), (2, WARN), (1, FAILED), (0, FAILED)]
)
def test_class_balance(tmp_path, pictures, smallest, expected):
    labels = pictures.labels["train"]
    labels[np.flatnonzero(labels == 4)[smallest:]] = np.arange(20 - smallest) % 4
    check = verdict(pictures.inspect(tmp_path), "class_balance_train")
    assert check.verdict is expected
    assert f"smallest class {smallest}" in check.measured


@pytest.mark.parametrize(("split", "expected"), [("train", FAILED), ("test", WARN)])
def test_a_class_without_images(tmp_path, pictures, split, expected):
    pictures.labels[split][pictures.labels[split] == 4] = 0
    check = verdict(pictures.inspect(tmp_path), f"label_range_{split}")
    assert check.verdict is expected
    assert check.measured == "labels 0 to 3, 4 classes used"


@pytest.mark.parametrize(("top", "expected"), [(128, PASSED), (127, WARN), (2, WARN), (1, FAILED)])
def test_value_range(tmp_path, pictures, top, expected):
    pictures.images["train"] = (pictures.images["train"] % (top + 1)).astype(np.uint8)
    check = verdict(pictures.inspect(tmp_path), "value_range_train")
    assert check.verdict is expected
    assert check.measured == f"0 to {top} of 0 to 255"


@pytest.mark.parametrize(("blank", "expected"), [(0, PASSED), (10, WARN), (11, FAILED)])
def test_blank_images(tmp_path, pictures, blank, expected):
    for row in range(blank):
        pictures.images["train"][row] = row
    check = verdict(pictures.inspect(tmp_path), "blank_images_train")
    assert check.verdict is expected
    assert check.measured.startswith(f"{blank} of 100")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (Raw(lowest=0, highest=255, non_finite=1, allowed=(0, 255)), "non_finite"),
        (Raw(lowest=-1, highest=255, non_finite=0, allowed=(0, 255)), "source_range"),
        (Raw(lowest=0, highest=17, non_finite=0, allowed=(0, 16)), "source_range"),
    ],
)
def test_values_that_the_format_does_not_know(tmp_path, pictures, raw, name):
    found = pictures.inspect(tmp_path, raw)
    assert [check.name for check in found.failed] == [name]


def test_moments_are_those_of_numpy(tmp_path, pictures):
    pictures.images["train"][..., 1] //= 3
    pictures.inspect(tmp_path)
    images = load(tmp_path, "train", "images")
    mean, std = channel_moments(tmp_path)
    shares = images / 255
    assert mean == pytest.approx(shares.mean(axis=(0, 1, 2)))
    assert std == pytest.approx(shares.std(axis=(0, 1, 2)))
