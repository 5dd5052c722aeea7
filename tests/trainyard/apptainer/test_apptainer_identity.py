"""Which image it is: read once, kept beside it, found out again when the file changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainyard.apptainer.test_apptainer_launch import MINIMAL
from trainer.contract import dumps, loads
from trainyard.apptainer.identity import SUFFIX, identified, identify
from trainyard.apptainer.site import ImageIdentity
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.slurm.transport import LocalTransport


class Counting(LocalTransport):
    """This host's commands, by name; *after* is called once the image was read."""

    names: list[str]
    after: Callable[[], None]

    def run(self, argv, stdin=None, timeout=30):
        done = LocalTransport().run(argv, stdin, timeout)
        self.names.append(argv[0])
        if argv[0] == "sha256sum":
            self.after()
        return done


@pytest.fixture
def transport():
    made = Counting()
    object.__setattr__(made, "names", [])
    object.__setattr__(made, "after", lambda: None)
    return made


@pytest.fixture
def image(tmp_path) -> Path:
    file = tmp_path / "it's a \\ trainer.sif"
    file.write_bytes(b"image")
    return file


def test_the_image_is_read_once(image, transport):
    first = identify(str(image), transport)
    assert first.digest == f"sha256:{hashlib.sha256(b'image').hexdigest()}"
    assert (first.size, first.inode) == (5, image.stat().st_ino)
    assert identify(str(image), transport) == first
    assert transport.names.count("sha256sum") == 1
    assert loads(ImageIdentity, Path(f"{image}{SUFFIX}").read_text()) == first


@pytest.mark.parametrize("how", ["written", "replaced", "touched"])
def test_a_changed_image_is_read_again(image, transport, how):
    before = identify(str(image), transport)
    if how == "written":
        image.write_bytes(b"other")
    elif how == "replaced":  # same size and time of change, as rsync --times leaves it
        other = image.with_name("other")
        other.write_bytes(b"other")
        os.utime(other, ns=(image.stat().st_atime_ns, image.stat().st_mtime_ns))
        other.replace(image)
    else:
        os.utime(image, ns=(1, 1))
    after = identify(str(image), transport)
    assert transport.names.count("sha256sum") == 2
    content = b"image" if how == "touched" else b"other"
    assert after.sha256 == hashlib.sha256(content).hexdigest()
    assert (after.sha256 == before.sha256) is (how == "touched")


@pytest.mark.parametrize("text", ["", "{}", '{"sha256": "0a"}', "\x00"])
def test_a_broken_record_is_made_again(image, transport, text):
    Path(f"{image}{SUFFIX}").write_text(text)
    found = identify(str(image), transport)
    assert found.sha256 == hashlib.sha256(b"image").hexdigest()
    assert loads(ImageIdentity, Path(f"{image}{SUFFIX}").read_text()) == found


def test_a_folder_nobody_may_write_to_costs_a_reading_each_time(transport):
    sealed = "/sys/kernel/notes"  # where not even root can make a file
    first, second = (identify(sealed, transport) for _ in range(2))
    assert first.sha256 == second.sha256
    assert transport.names.count("sha256sum") == 2


def test_an_image_that_is_still_being_copied(image, transport):
    object.__setattr__(transport, "after", lambda: image.write_bytes(b"image, all of it"))
    with pytest.raises(UnavailableError, match="copied completely"):
        identify(str(image), transport)
    assert not Path(f"{image}{SUFFIX}").exists()


def test_a_missing_image_and_one_that_is_a_folder(tmp_path, transport):
    with pytest.raises(ConfigurationError, match="build it or copy it there"):
        identify(str(tmp_path / "none.sif"), transport)
    with pytest.raises(ConfigurationError, match=r"is a directory.*apptainer build"):
        identify(str(tmp_path), transport)


def test_a_site_gets_the_identity_of_its_image(image, transport):
    site = replace(MINIMAL, apptainer=replace(MINIMAL.apptainer, image=str(image), identity=None))
    made = identified(site, transport)
    assert made.apptainer.identity == identify(str(image), transport)
    assert dumps(replace(made, apptainer=site.apptainer)) == dumps(site)
    plain = replace(MINIMAL, apptainer=None)
    assert identified(plain, transport) == plain


def test_a_docker_archive_is_identified_by_its_file(image, transport):
    container = replace(MINIMAL.apptainer, image=f"docker-archive:{image}", identity=None)
    made = identified(replace(MINIMAL, apptainer=container), transport)
    assert made.apptainer.identity.sha256 == hashlib.sha256(b"image").hexdigest()
