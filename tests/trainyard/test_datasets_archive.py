"""Archives that nobody vouches for: each way to be hostile has its own refusal."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc

import pytest

from tests.fixtures.datasets import tar_gz, tiny
from trainyard.datasets.archive import Limits, members, open_gzip
from trainyard.errors import DatasetError

ROOMY = Limits(total_bytes=2**24)


def member(name, kind=tarfile.REGTYPE, size=0, **changes):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def packed(*infos, content=b""):
    return tar_gz({"last.bin": b"1"}, [(info, content[: info.size]) for info in infos])


HOSTILE = {
    "absolute path": (packed(member("/etc/passwd")), "'/etc/passwd' has an absolute"),
    "climbing path": (packed(member("a/../../x")), "climbs out of its folder with '..'"),
    "windows path": (packed(member("a\\..\\x")), "absolute or foreign path"),
    "symbolic link": (
        packed(member("x", tarfile.SYMTYPE, linkname="/etc/passwd")),
        "'x' is a symbolic link to '/etc/passwd'",
    ),
    "hard link": (packed(member("x", tarfile.LNKTYPE, linkname="y")), "'x' is a hard link to 'y'"),
    "character device": (packed(member("x", tarfile.CHRTYPE)), "'x' is a device file"),
    "block device": (packed(member("x", tarfile.BLKTYPE)), "'x' is a device file"),
    "fifo": (packed(member("x", tarfile.FIFOTYPE)), "'x' is a FIFO"),
    "unknown type": (packed(member("x", b"Z")), "is neither a plain file nor a folder"),
    "name twice": (packed(member("x"), member("x")), "'x' comes twice"),
    "same name spelt twice": (packed(member("a/x"), member("a/./x")), "comes twice"),
}


def names(body, tmp_path, limits=ROOMY):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(body)
    return [(name, content.read()) for name, _, content in members(path, limits)]


def test_plain_files_come_in_order_and_folders_are_passed_over(tmp_path):
    body = packed(member("d", tarfile.DIRTYPE), member("d/x", size=3), content=b"abc")
    assert names(body, tmp_path) == [("d/x", b"abc"), ("last.bin", b"1")]


def test_a_member_that_is_not_read_is_skipped(tmp_path):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(tar_gz({"a": b"x" * 5_000, "b": b"y"}))
    assert [name for name, _, _ in members(path, ROOMY)] == ["a", "b"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused(tmp_path, kind):
    body, says = HOSTILE[kind]
    with pytest.raises(DatasetError) as caught:
        names(body, tmp_path)
    assert says in str(caught.value)
    assert "archive.tar.gz refused" in str(caught.value)
    assert "nothing of it was stored" in str(caught.value)


def test_a_sparse_file_lies_about_its_size(tmp_path):
    header = bytearray(member("x", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    body = gzip.compress(bytes(header) + bytes(1024))
    with pytest.raises(DatasetError, match="neither a plain file nor a folder"):
        names(body, tmp_path)


def test_a_decompression_bomb_by_ratio(tmp_path):
    body = tar_gz({"zeros": bytes(8 * 2**20)})
    assert len(body) < 2**17
    with pytest.raises(DatasetError, match="unfold to more than 100 times as many"):
        names(body, tmp_path)


def test_a_decompression_bomb_by_size(tmp_path):
    body = tar_gz({"noise": random.Random(0).randbytes(200_000)})
    with pytest.raises(DatasetError, match="unfolds to more than 100,000 bytes"):
        names(body, tmp_path, Limits(total_bytes=100_000))


def test_a_bomb_behind_the_end_of_the_tar_is_still_counted(tmp_path):
    body = gzip.compress(gzip.decompress(tar_gz({"a": b"1"})) + bytes(8 * 2**20))
    with pytest.raises(DatasetError, match="unfold to more than"):
        names(body, tmp_path)


def test_a_flood_of_members(tmp_path):
    body = tar_gz({f"f{n}": b"" for n in range(50)})
    with pytest.raises(DatasetError, match="more than 49 members"):
        names(body, tmp_path, Limits(total_bytes=2**24, members=49))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_cannot_fill_the_memory(tmp_path, kind):
    size = 12 * 2**20
    noise = random.Random(0).randbytes(size)
    body = gzip.compress(member("x", kind, size).tobuf(tarfile.GNU_FORMAT) + noise, 0)
    tracemalloc.start()
    with pytest.raises(DatasetError, match="an extended header of 12,582,912 bytes"):
        names(body, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * size, "the header itself was not read"


@pytest.mark.parametrize("keep", [0, 5, 300, -9, -4])
def test_a_truncated_archive_is_not_whole(tmp_path, keep):
    with pytest.raises(DatasetError, match=r"not a whole (gzip|tar) file"):
        names(tiny().body[:keep], tmp_path)


def test_what_is_no_gzip_at_all(tmp_path):
    with pytest.raises(DatasetError, match="not a whole gzip file"):
        names(b"<html>404</html>", tmp_path)


def test_a_flipped_bit_fails_the_checksum_of_gzip(tmp_path):
    body = bytearray(tar_gz({"noise": random.Random(0).randbytes(50_000)}))
    body[30_000] ^= 1
    with pytest.raises(DatasetError, match="not a whole"):
        names(bytes(body), tmp_path)


def test_no_damage_to_a_tar_gives_anything_but_our_error(tmp_path):
    """Five hundred damaged tar files, resealed so that gzip does not notice."""
    whole = gzip.decompress(tar_gz({"a/b.bin": b"x" * 600, "c": b"y" * 100}))
    dice = random.Random(7)
    refused = 0
    for _ in range(500):
        broken = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            broken[dice.randrange(2_048)] = dice.randrange(256)
        if dice.random() < 0.3:
            del broken[dice.randrange(len(broken)) :]
        try:
            names(gzip.compress(io.BytesIO(broken).getvalue(), 1), tmp_path)
        except DatasetError:
            refused += 1
    assert refused > 100


def test_a_single_file_is_bounded_too(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(bytes(2**22)))
    with (
        open_gzip(path, Limits(total_bytes=2**20, ratio=1e9)) as stream,
        pytest.raises(DatasetError, match="unfolds to more than 1,048,576"),
    ):
        stream.read()
