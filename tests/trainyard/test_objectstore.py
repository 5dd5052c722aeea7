"""The object store against a real S3 server, and against faults on the way to it."""

from __future__ import annotations

import hashlib
import io
import math
import os
import subprocess
import sys
import urllib.request

import pytest

from tests.fixtures.faults import proxy_to
from tests.fixtures.s3 import through
from tests.fixtures.settings import make_settings
from trainyard.errors import DatasetError, UnavailableError
from trainyard.objectstore import ObjectStore
from trainyard.s3transfer import PART_BYTES, parallel_parts, part_size

BIG = os.urandom(3 * PART_BYTES + 12_345)
DIGEST = hashlib.sha256(BIG).hexdigest()


@pytest.fixture
def settings(tmp_path, s3_server):
    return make_settings(tmp_path, **s3_server.settings())


@pytest.fixture
def store(settings):
    made = ObjectStore(settings)
    made.ensure_bucket()
    return made


def test_a_large_file_travels_in_parts_and_comes_back_the_same(tmp_path, store, settings):
    source, copy = tmp_path / "big", tmp_path / "copy"
    source.write_bytes(BIG)
    with proxy_to(settings.s3_endpoint) as proxy:
        near = through(tmp_path, settings, proxy.endpoint)
        near.put_file("big", source, sha256=DIGEST)
        near.get_to_file("big", copy, size_bytes=len(BIG), sha256=DIGEST)
    assert copy.read_bytes() == BIG
    assert sum("partNumber=" in line for line in proxy.requests) == 4
    info = store.stat("big")
    assert info is not None
    assert info.size_bytes == len(BIG)
    assert info.modified_at.endswith("+00:00")


def test_making_a_bucket_twice_is_harmless(store):
    store.ensure_bucket()
    store.ensure_bucket()


@pytest.mark.parametrize("size", [1_000, len(BIG)], ids=["one put", "multipart"])
def test_wrong_bytes_never_become_an_object(store, size):
    with pytest.raises(DatasetError, match=r"SHA-256 is .*, expected 0000"):
        store.put_stream("bad", io.BytesIO(BIG[:size]), size, sha256="0" * 64)
    assert store.stat("bad") is None


@pytest.mark.parametrize("size", [1_000, len(BIG)], ids=["one put", "multipart"])
def test_a_source_that_ends_early_never_becomes_an_object(store, size):
    with pytest.raises(DatasetError, match=r"ended after [\d,]+ of [\d,]+ bytes"):
        store.put_stream("short", io.BytesIO(BIG[: size - 1]), size, sha256=DIGEST)
    assert store.stat("short") is None


def test_an_upload_cut_midway_leaves_no_object_and_stops_reading(tmp_path, store, settings):
    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            data = super().read(size)
            Counted.taken += len(data)
            return data

    many = 30 * PART_BYTES
    with proxy_to(settings.s3_endpoint) as proxy:
        near = through(tmp_path, settings, proxy.endpoint)
        proxy.refuse = lambda line: "partNumber=2&" in line
        with pytest.raises(UnavailableError, match="while storing cut"):
            near.put_stream("cut", Counted(bytes(many)), many)
    assert store.stat("cut") is None
    assert Counted.taken < many, "the rest is not read once a part has failed for good"


def test_a_read_that_breaks_goes_on_where_it_broke(tmp_path, store, settings):
    store.put_stream("big", io.BytesIO(BIG), len(BIG))
    with proxy_to(settings.s3_endpoint) as proxy:
        near = through(tmp_path, settings, proxy.endpoint)
        proxy.cut_down_after = [5_000_000, 3_000_000]
        near.get_to_file("big", tmp_path / "copy", size_bytes=len(BIG), sha256=DIGEST)
    assert (tmp_path / "copy").read_bytes() == BIG
    assert proxy.cut_down_after == []
    assert proxy.down < len(BIG) + 2_000_000, "what came is not read again"


def test_a_read_resumes_what_an_earlier_call_left(tmp_path, store, settings):
    store.put_stream("big", io.BytesIO(BIG), len(BIG))
    copy = tmp_path / "copy"
    copy.write_bytes(BIG[:20_000_000])
    with proxy_to(settings.s3_endpoint) as proxy:
        near = through(tmp_path, settings, proxy.endpoint)
        near.get_to_file("big", copy, size_bytes=len(BIG), sha256=DIGEST)
    assert copy.read_bytes() == BIG
    assert proxy.down < len(BIG) - 19_000_000


@pytest.mark.parametrize("left", [b"\0" * 1_000, BIG + b"!"], ids=["wrong", "too long"])
def test_a_leftover_that_cannot_be_right(tmp_path, store, left):
    store.put_stream("big", io.BytesIO(BIG), len(BIG))
    copy = tmp_path / "copy"
    copy.write_bytes(left)
    if len(left) < len(BIG):
        with pytest.raises(DatasetError, match="the stored object or the transfer is damaged"):
            store.get_to_file("big", copy, size_bytes=len(BIG), sha256=DIGEST)
        assert not copy.exists()
    store.get_to_file("big", copy, size_bytes=len(BIG), sha256=DIGEST)
    assert copy.read_bytes() == BIG


@pytest.mark.parametrize(
    ("size", "says"), [(900, "more than the expected"), (1_100, "shorter than the expected")]
)
def test_an_object_of_another_size_is_damaged(tmp_path, store, size, says):
    store.put_stream("odd", io.BytesIO(BIG[:1_000]), 1_000)
    with pytest.raises(DatasetError, match=says):
        store.get_to_file("odd", tmp_path / "copy", size_bytes=size, sha256=DIGEST)


def test_a_disk_that_fills_while_reading(tmp_path, store, file_size_limit):
    store.put_stream("big", io.BytesIO(BIG), len(BIG))
    with file_size_limit(1_000_000), pytest.raises(UnavailableError, match="no room for the copy"):
        store.get_to_file("big", tmp_path / "copy", size_bytes=len(BIG), sha256=DIGEST)
    store.get_to_file("big", tmp_path / "copy", size_bytes=len(BIG), sha256=DIGEST)


def test_json_round_trip_absence_and_garbage(store):
    assert store.get_json("a/b.json") is None
    store.put_json("a/b.json", {"k": [1, None]})
    store.put_json("a/b.json", {"k": [2, None]})
    assert store.get_json("a/b.json") == {"k": [2, None]}
    store.put_stream("a/b.json", io.BytesIO(b"{"), 1)
    with pytest.raises(UnavailableError, match="not a JSON document"):
        store.get_json("a/b.json")


def test_a_bucket_that_is_not_there_holds_nothing(settings):
    store = ObjectStore(settings)
    assert store.get_json("x") is None
    assert not store.exists("x")
    with pytest.raises(UnavailableError, match="NoSuchBucket while storing x"):
        store.put_stream("x", io.BytesIO(b"1"), 1)


def test_a_missing_object_says_what_to_do(tmp_path, store):
    with pytest.raises(UnavailableError, match=r"NoSuchKey.*trigger fetch_dataset"):
        store.get_to_file("none", tmp_path / "copy", size_bytes=1, sha256=DIGEST)


def test_artifacts_keep_their_folders_and_leave_links_out(tmp_path, store, s3_server):
    folder = tmp_path / "run"
    (folder / "profiles").mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    (folder / "profiles" / "rank 0.bin").write_bytes(b"\0")
    (folder / "empty.log").write_bytes(b"")
    (folder / "secret").symlink_to("/etc/passwd")
    for _ in range(2):
        uris = store.put_artifacts("run-1", folder)
    keys = ["runs/run-1/empty.log", "runs/run-1/profiles/rank 0.bin", "runs/run-1/result.json"]
    assert uris == [f"s3://{store.bucket}/{key}" for key in keys]
    assert s3_server.objects(store.bucket) == dict(zip(keys, (0, 1, 2), strict=True))


def test_a_browser_reads_a_presigned_address_without_credentials(store):
    store.put_stream("page", io.BytesIO(b"<p>"), 3)
    with urllib.request.urlopen(store.presigned("page"), timeout=5) as answer:
        assert answer.read() == b"<p>"


def test_removing_twice_is_harmless(store):
    store.put_stream("x", io.BytesIO(b"1"), 1)
    store.remove("x")
    store.remove("x")
    assert not store.exists("x")


@pytest.mark.parametrize("size", [0, 1, 80_000 * 2**20, 80_000 * 2**20 + 1, 2**40, 5 * 2**40])
def test_every_size_fits_into_ten_thousand_parts(size):
    part = part_size(size)
    assert part >= PART_BYTES
    assert math.ceil(size / part) <= 10_000
    parallel = parallel_parts(size)
    assert parallel >= 1
    if size <= 160_000 * 2**20:
        assert (parallel + 1) * part <= 128 * 2**20


@pytest.mark.slow
def test_memory_stays_flat_while_half_a_gigabyte_is_stored(tmp_path, store):
    big = tmp_path / "half"
    block = os.urandom(2**20)
    with big.open("wb") as stream:
        for _ in range(512):
            stream.write(block)
    text = (
        "import sys, pathlib\n"
        "from trainyard.settings import load_settings\n"
        "from trainyard.objectstore import ObjectStore\n"
        "path = pathlib.Path(sys.argv[2])\n"
        "digest = sys.argv[3]\n"
        "store = ObjectStore(load_settings(pathlib.Path(sys.argv[1])))\n"
        "store.put_file('half', path, sha256=digest)\n"
        "store.get_to_file('half', path.with_suffix('.b'), size_bytes=2**29, sha256=digest)\n"
        "rows = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(row for row in rows if row.startswith('VmHWM')).split()[1])\n"
    )
    digest = hashlib.sha256(block * 512).hexdigest()
    argv = [sys.executable, "-c", text, str(tmp_path / "settings.toml"), str(big), digest]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert int(done.stdout) * 1024 <= 200_000_000
