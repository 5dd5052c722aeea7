"""``prepare`` against a real S3 server: whole or not there, and repaired when damaged."""

from __future__ import annotations

import io
import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.fixtures.datasets import tiny
from tests.fixtures.faults import proxy_to
from tests.fixtures.s3 import free_port
from tests.fixtures.settings import make_settings
from trainyard.datasets import fetch, prepare
from trainyard.datasets.catalogue import CIFAR10
from trainyard.errors import DatasetError, UnavailableError
from trainyard.objectstore import ObjectStore

MADE = tiny()
FILES = {
    "dataset.json",
    "test_images.npy",
    "test_labels.npy",
    "train_images.npy",
    "train_labels.npy",
}


@pytest.fixture
def settings(tmp_path, s3_server):
    path = tmp_path / "tiny.tar.gz"
    path.write_bytes(MADE.body)
    catalogue = MADE.catalogue(tmp_path / "datasets.toml", path.as_uri())
    return make_settings(tmp_path, **s3_server.settings(), datasets_file=catalogue)


@pytest.fixture
def manifest(settings):
    return fetch("tiny", settings=settings)


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def elsewhere(settings, endpoint):
    return replace(settings, s3_endpoint=endpoint)


def nothing_half_made(data):
    left = {path.name for path in data.iterdir()} - {"locks", "incoming"}
    return left == set() and not list(data.glob("incoming/*.building"))


def test_the_folder_holds_the_images_and_says_what_they_are(data, settings, manifest):
    folder = prepare(manifest, data, settings)
    assert folder == data / manifest.digest
    assert {path.name for path in folder.iterdir()} == FILES
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(np.load(folder / f"{name}.npy", mmap_mode="r"), getattr(MADE, name))
    told = json.loads((folder / "dataset.json").read_text())
    assert told["name"] == "tiny"
    assert told["digest"] == MADE.sha256
    assert told["classes"] == ["ant", "bee", "cat", "dog", "eel"]
    assert told["mean"] == pytest.approx((MADE.train_images / 255).mean(axis=(0, 1, 2)))
    assert list((data / "incoming").iterdir()) == [], "the archive goes once it is unpacked"


def test_a_second_preparation_asks_the_store_for_nothing(data, settings, manifest):
    folder = prepare(manifest, data, settings)
    nobody = elsewhere(settings, f"127.0.0.1:{free_port()}")
    assert prepare(manifest, data, nobody) == folder


def spoil_flip(folder):
    path = folder / "train_images.npy"
    with path.open("r+b") as stream:
        stream.seek(5_000)
        byte = stream.read(1)
        stream.seek(5_000)
        stream.write(bytes([byte[0] ^ 1]))


def spoil_layout(folder):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 0}))


DAMAGE = {
    "a flipped bit": spoil_flip,
    "a truncated file": lambda folder: (folder / "test_images.npy").write_bytes(b"\x93NUMPY"),
    "a missing file": lambda folder: (folder / "test_labels.npy").unlink(),
    "no description": lambda folder: (folder / "dataset.json").unlink(),
    "half a description": lambda folder: (folder / "dataset.json").write_text('{"name": "ti'),
    "no object": lambda folder: (folder / "dataset.json").write_text("[]"),
    "an older layout": spoil_layout,
    "nothing in it": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_made_again(data, settings, manifest, damage):
    folder = prepare(manifest, data, settings)
    DAMAGE[damage](folder)
    assert prepare(manifest, data, settings) == folder
    assert {path.name for path in folder.iterdir()} == FILES
    assert np.array_equal(np.load(folder / "train_images.npy"), MADE.train_images)


def test_what_a_killed_preparation_left_is_cleared_away(data, settings, manifest):
    building = data / "incoming" / f"{manifest.digest}.building"
    building.mkdir(parents=True)
    (building / "train_images.npy").write_bytes(b"half")
    (data / "incoming" / manifest.digest).write_bytes(MADE.body[:1_000])
    assert {path.name for path in prepare(manifest, data, settings).iterdir()} == FILES
    assert list((data / "incoming").iterdir()) == []


def test_an_interrupted_transfer_goes_on_where_it_broke(data, settings, manifest):
    kept = data / "incoming" / manifest.digest
    kept.parent.mkdir(parents=True)
    kept.write_bytes(MADE.body[:400_000])
    with proxy_to(settings.s3_endpoint) as proxy:
        prepare(manifest, data, elsewhere(settings, proxy.endpoint))
    assert proxy.down < len(MADE.body) - 400_000 + 5_000


def test_a_connection_that_breaks_is_taken_up_again(data, settings, manifest):
    with proxy_to(settings.s3_endpoint) as proxy:
        proxy.cut_down_after = [200_000]
        folder = prepare(manifest, data, elsewhere(settings, proxy.endpoint))
    assert proxy.cut_down_after == []
    assert np.array_equal(np.load(folder / "test_images.npy"), MADE.test_images)


def test_a_store_that_is_down_leaves_nothing_and_says_so(data, settings, manifest):
    down = elsewhere(settings, f"127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError, match="Connection refused"):
        prepare(manifest, data, down)
    assert nothing_half_made(data)
    prepare(manifest, data, settings)


def test_a_damaged_object_is_refused(data, settings, manifest):
    wrong = bytearray(MADE.body)
    wrong[99] ^= 1
    ObjectStore(settings).put_stream(manifest.object_key, io.BytesIO(wrong), len(wrong))
    with pytest.raises(DatasetError, match="the stored object or the transfer is damaged"):
        prepare(manifest, data, settings)
    assert nothing_half_made(data)
    assert list((data / "incoming").iterdir()) == []


def test_an_object_that_is_gone_names_the_way_to_get_it_back(data, settings, manifest):
    ObjectStore(settings).remove(manifest.object_key)
    with pytest.raises(UnavailableError, match=r"NoSuchKey.*trigger fetch_dataset"):
        prepare(manifest, data, settings)
    assert nothing_half_made(data)


def test_a_full_disk_leaves_no_folder(data, settings, manifest, file_size_limit):
    size = (len(MADE.body) + MADE.train_images.nbytes) // 2
    with file_size_limit(min(size, 300_000)), pytest.raises(UnavailableError, match="no room for"):
        prepare(manifest, data, settings)
    assert nothing_half_made(data)
    prepare(manifest, data, settings)


def test_a_full_disk_while_unpacking_leaves_no_folder(data, settings, manifest, file_size_limit):
    kept = data / "incoming" / manifest.digest
    kept.parent.mkdir(parents=True)
    kept.write_bytes(MADE.body)
    with file_size_limit(100_000), pytest.raises(UnavailableError, match="prepared data set"):
        prepare(manifest, data, settings)
    assert nothing_half_made(data)
    prepare(manifest, data, settings)


def test_a_disk_that_is_too_small_is_known_first(settings, manifest, small_disk):
    large = replace(manifest, size_bytes=CIFAR10.size_bytes)
    with pytest.raises(UnavailableError, match=r"no room for preparing tiny: .*needs 17\d,"):
        prepare(large, small_disk, settings)


def test_two_preparations_at_once_read_the_archive_once(data, settings, manifest):
    with proxy_to(settings.s3_endpoint) as proxy:
        near = elsewhere(settings, proxy.endpoint)
        done = []
        both = [
            threading.Thread(target=lambda: done.append(prepare(manifest, data, near)))
            for _ in range(2)
        ]
        for one in both:
            one.start()
        for one in both:
            one.join(30)
    assert done == [data / manifest.digest] * 2
    assert sum(manifest.object_key in line for line in proxy.requests) == 1


def test_readers_keep_what_they_mapped_while_it_is_made_again(data, settings, manifest):
    folder = prepare(manifest, data, settings)
    mapped = np.load(folder / "train_images.npy", mmap_mode="r")
    (folder / "dataset.json").unlink()
    prepare(manifest, data, settings)
    assert np.array_equal(mapped, MADE.train_images)


def test_data_folders_can_be_deleted_at_any_time(data, settings, manifest):
    prepare(manifest, data, settings)
    shutil.rmtree(data)
    prepare(manifest, data, settings)
