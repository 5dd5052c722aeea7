"""Readers: the prepared arrays are exactly the images of the archive."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.fixtures.datasets import tar_gz, tiny
from trainyard.datasets.arrays import SPLITS, ArrayWriter, load
from trainyard.datasets.catalogue import DIGITS, Format
from trainyard.datasets.download import Patience, obtain
from trainyard.datasets.formats import Expected, convert, split_test, upsample
from trainyard.errors import DatasetError, UnavailableError
from trainyard.files import ignore_progress

RECORD = 3_073
GOLDEN = {
    "train_images": "4c6c569b803b33cd",
    "train_labels": "ac65a8c4e959ca05",
    "test_images": "6100c5c5bc932ef6",
    "test_labels": "bc53d7fa4b722226",
}
"""First 16 hex digits of the SHA-256 of each prepared array. A change needs a new ``LAYOUT``."""


def expected(made, **changes):
    whole = Expected(
        format=Format.CIFAR_BINARY,
        classes=5,
        train=len(made.train_labels),
        test=len(made.test_labels),
    )
    return replace(whole, **changes)


def written(tmp_path, body):
    path = tmp_path / "archive"
    path.write_bytes(body)
    folder = tmp_path / "out"
    folder.mkdir()
    return path, folder


@pytest.fixture
def digits(tmp_path):
    path = obtain(DIGITS, tmp_path, ignore_progress, Patience())
    raw = convert(
        path, Expected(format=Format.DIGITS_CSV, classes=10, train=1442, test=355), tmp_path
    )
    return tmp_path, raw


def test_cifar_batches_land_in_the_order_of_their_numbers(tmp_path):
    made = tiny()
    path, folder = written(tmp_path, made.body)
    raw = convert(path, expected(made), folder)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        split, kind = name.split("_")
        array = load(folder, split, kind)
        assert np.array_equal(array, getattr(made, name)), name
        assert array.dtype == (np.uint8 if kind == "images" else np.int64)
        assert array.flags["C_CONTIGUOUS"]
    assert (raw.lowest, raw.highest, raw.non_finite) == (0, 255, 0)


def test_a_batch_larger_than_one_block_is_read_whole(tmp_path):
    made = tiny(per_batch=1_203, batches=2)
    path, folder = written(tmp_path, made.body)
    convert(path, expected(made), folder)
    assert np.array_equal(load(folder, "train", "images"), made.train_images)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"data_batch_1.bin": bytes(RECORD * 4 - 1)}, "must be a multiple of 3073"),
        ({"data_batch_1.bin": bytes(RECORD * 5)}, "do not fit 4 rows"),
        ({"data_batch_1.bin": bytes(RECORD * 3)}, "1 of 4 images are missing"),
        (
            {"data_batch_1.bin": bytes(RECORD * 3), "data_batch_2.bin": bytes(RECORD)},
            "must be of one size",
        ),
        (
            {"a/data_batch_1.bin": bytes(RECORD * 4), "b/data_batch_1.bin": bytes(RECORD * 4)},
            "twice",
        ),
        (
            {"data_batch_1.bin": b"\x05" + bytes(RECORD * 4 - 1)},
            "labels 0 to 5: must lie in 0 to 4",
        ),
        ({"data_batch_1.pkl": b"evil"}, "holds no data_batch_N.bin; is it the binary version"),
    ],
)
def test_an_archive_that_is_not_as_described(tmp_path, files, says):
    path, folder = written(tmp_path, tar_gz(files | {"test_batch.bin": bytes(RECORD * 2)}))
    wanted = Expected(format=Format.CIFAR_BINARY, classes=5, train=4, test=2)
    with pytest.raises(DatasetError, match=says):
        convert(path, wanted, folder)


def test_digits_are_the_images_of_scikit_learn(digits):
    folder, raw = digits
    assert (raw.lowest, raw.highest) == (0, 16)
    shipped = load_digits()
    found = {}
    for split in SPLITS:
        images, labels = load(folder, split, "images"), load(folder, split, "labels")
        assert images.shape[1:] == (32, 32, 1)
        for image, label in zip(images, labels, strict=True):
            found[image.tobytes()] = int(label)
    wanted = upsample(shipped.images.astype(int))
    assert found == {
        image.tobytes(): int(label) for image, label in zip(wanted, shipped.target, strict=True)
    }
    assert len(found) == 1_797, "no image is in both splits"


def test_the_prepared_digits_never_change(digits):
    """Results of different nights are compared: the bytes they trained on must be the same."""
    folder, _ = digits
    digests = {
        name: hashlib.sha256(load(folder, *name.split("_")).tobytes()).hexdigest()[:16]
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    assert digests == GOLDEN


def test_upsampling_is_bilinear_with_half_pixel_centres():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (50, 8, 8))
    at = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    low = np.floor(at).astype(int)
    high, weight = np.minimum(low + 1, 7), at - low
    rows = images[:, low] * (1 - weight)[:, None] + images[:, high] * weight[:, None]
    both = rows[:, :, low] * (1 - weight) + rows[:, :, high] * weight
    wanted = np.floor(both * 255 / 16 + 0.5)
    assert np.array_equal(upsample(images)[..., 0], wanted)


@pytest.mark.parametrize(("value", "byte"), [(0, 0), (16, 255), (8, 128)])
def test_upsampling_keeps_a_flat_image_flat(value, byte):
    assert np.all(upsample(np.full((1, 8, 8), value)) == byte)


def test_the_split_takes_a_fifth_of_each_class_whatever_the_order():
    rng = np.random.default_rng(1)
    values, labels = rng.integers(0, 17, (500, 64)), rng.integers(0, 4, 500)
    chosen = split_test(values, labels)
    for label in range(4):
        assert chosen[labels == label].sum() == (labels == label).sum() // 5
    assert not chosen[: len(chosen) // 5].all(), "spread over the file, not its beginning"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"1,2\n3,4\n", "2 rows of 2 numbers: must be 1797 of 65"),
        (b"a,b\n", "not a table of numbers"),
        ((b",".join([b"17"] * 64) + b",1\n") * 1_797, "values 17 to 17"),
        ((b",".join([b"nan"] + [b"1"] * 63) + b",1\n") * 1_797, "1797 of them not finite"),
        ((b",".join([b"1"] * 64) + b",11\n") * 1_797, "labels 11 to 11|do not fit"),
    ],
)
def test_a_table_of_digits_that_is_not_one(tmp_path, text, says):
    import gzip

    path, folder = written(tmp_path, gzip.compress(text))
    wanted = Expected(format=Format.DIGITS_CSV, classes=10, train=1442, test=355)
    with pytest.raises(DatasetError, match=says):
        convert(path, wanted, folder)


def test_a_row_is_written_once_and_inside_the_file(tmp_path):
    writer = ArrayWriter(tmp_path / "x.npy", (4, 2), "|u1")
    writer.write(2, np.ones((2, 2)))
    with pytest.raises(DatasetError, match="or come twice"):
        writer.write(1, np.ones((2, 2)))
    with pytest.raises(DatasetError, match="2 of 4 images are missing"):
        writer.close()


def test_a_full_disk_is_known_before_the_work_and_never_kills_the_process(small_disk):
    made = tiny(per_batch=200)
    (small_disk.parent / "archive").write_bytes(made.body)
    with pytest.raises(UnavailableError, match="No space left on device"):
        convert(small_disk.parent / "archive", expected(made), small_disk)
