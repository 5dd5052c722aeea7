"""The catalogue: what is built in is right, what a user adds is checked, wrong names are helped."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.datasets import tiny
from tests.fixtures.settings import make_settings
from trainyard.datasets import choices, find
from trainyard.datasets.archive import Limits
from trainyard.datasets.catalogue import CIFAR10, DIGITS, Format
from trainyard.datasets.download import Patience, obtain
from trainyard.errors import ConfigurationError, DatasetError
from trainyard.files import ignore_progress


def settings_with(tmp_path: Path, text: str):
    path = tmp_path / "datasets.toml"
    path.write_text(text)
    return make_settings(tmp_path, datasets_file=str(path))


def test_the_pinned_digits_are_the_file_that_scikit_learn_ships(tmp_path):
    path = obtain(DIGITS, tmp_path, ignore_progress, Patience())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIGITS.sha256
    assert path.stat().st_size == DIGITS.size_bytes
    assert not path.is_relative_to(tmp_path), "a local file is used where it lies"


def test_cifar10_is_the_binary_version_from_its_authors():
    assert CIFAR10.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert CIFAR10.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert CIFAR10.size_bytes == 170_052_171
    assert len(CIFAR10.classes) == 10
    assert CIFAR10.format is Format.CIFAR_BINARY


def test_a_near_miss_is_met_with_the_name_that_was_meant():
    with pytest.raises(ConfigurationError) as caught:
        find("cifar-10")
    assert "did you mean 'cifar10'?" in str(caught.value)
    assert "cifar10, digits" in str(caught.value)


def test_synthetic_needs_no_staging_and_says_so():
    with pytest.raises(ConfigurationError, match="needs no staging: the trainer makes it"):
        find("synthetic")


def test_a_mirror_changes_the_address_and_nothing_else(tmp_path):
    settings = settings_with(tmp_path, '[cifar10]\nurl = "https://mirror.example/c.tar.gz"\n')
    found = find("cifar10", settings)
    assert found.url == "https://mirror.example/c.tar.gz"
    assert (found.sha256, found.md5, found.size_bytes) == (
        CIFAR10.sha256,
        CIFAR10.md5,
        CIFAR10.size_bytes,
    )


def test_a_data_set_of_ones_own_is_one_table(tmp_path):
    made = tiny()
    path = made.catalogue(tmp_path / "more.toml", "https://example.org/tiny.tar.gz")
    settings = make_settings(tmp_path, datasets_file=path)
    assert find("tiny", settings) == made.source("https://example.org/tiny.tar.gz")
    assert choices(settings) == ("cifar10", "digits", "tiny")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not toml", "not a TOML file"),
        ("cifar10 = 3", r"\[cifar10\] must be a table"),
        ('[cifar10]\nurll = "https://x"', "urll is unknown; choose from checksum_source, classes"),
        ("[cifar10]\nsize_bytes = '1'", "size_bytes = '1': must be a whole number"),
        ("[cifar10]\nsize_bytes = 0", "size_bytes = 0: must be >= 1"),
        ("[cifar10]\nsha256 = 'ABC'", "sha256 = 'ABC': must be 64 lower-case hex digits"),
        ("[cifar10]\nmd5 = 'x'", "md5 = 'x': must be 32 hex digits or empty"),
        ("[cifar10]\nurl = 'ftp://x/y'", "must start with https, http, file, package"),
        ("[cifar10]\nformat = 'zip'", "format = 'zip': choose from digits-csv, cifar-binary"),
        ("[cifar10]\nclasses = 'ab'", "classes = 'ab': must be a list of class names"),
        ("[mine]\nurl = 'https://x/y'", "missing .* 'sha256'"),
        ("['../up']\nurl = 'https://x/y'", "missing|a name has 1 to 64"),
        ("[cifar10]\nname = 'other'", "name is unknown"),
    ],
)
def test_what_is_wrong_in_a_catalogue_file_is_named(tmp_path, text, says):
    with pytest.raises(ConfigurationError, match=says):
        find("cifar10", settings_with(tmp_path, text))


def test_a_name_that_could_leave_its_folder_is_refused():
    with pytest.raises(ConfigurationError, match="a name has 1 to 64"):
        tiny().source("https://x/y", name="../up")


def test_a_catalogue_file_that_is_not_there(tmp_path):
    settings = make_settings(tmp_path, datasets_file=str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match=r"No such file.*Correct datasets_file"):
        find("digits", settings)


def test_a_package_that_is_not_installed_is_named(tmp_path):
    source = tiny().source("package://no_such_package_here/x.gz")
    with pytest.raises(ConfigurationError, match=r"no_such_package_here.*make setup"):
        obtain(source, tmp_path, ignore_progress, Patience())


def test_a_package_without_the_file_is_named(tmp_path):
    source = tiny().source("package://sklearn/no/such.gz")
    with pytest.raises(DatasetError, match=r"no/such\.gz, which is no file"):
        obtain(source, tmp_path, ignore_progress, Patience())


def documented():
    return (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()


def test_the_catalogue_file_of_the_documentation_works(tmp_path):
    example = documented().partition("```toml\n")[2].partition("```")[0]
    placeholder = "…64 hex digits, as sha256sum prints them…"
    assert placeholder in example
    settings = settings_with(tmp_path, example.replace(placeholder, "a" * 64))
    assert choices(settings) == ("cifar10", "digits", "street_signs")
    assert find("street_signs", settings).classes == ("stop", "yield")


def test_every_data_set_and_limit_is_documented():
    text = documented()
    for name in (*choices(), "synthetic"):
        assert f"| `{name}` |" in text
    limits = Limits(total_bytes=1)
    assert f"more than {limits.members:,} members" in text
    assert f"than {limits.ratio:.0f} bytes out per byte in" in " ".join(text.split())


def test_importing_the_package_loads_no_network_or_array_library():
    """DAG files import it for the choices in their forms, at every parse."""
    text = (
        "import sys, trainyard.datasets\n"
        "print(sorted({'numpy', 'urllib3', 'minio'} & set(sys.modules)))\n"
    )
    argv = [sys.executable, "-c", text]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
