"""Which data sets there are: where each comes from, what its publisher says it must be.

Further ones, and mirrors of those built in, come from the TOML file that ``datasets_file`` in the
settings names: one table per data set with the fields of ``DatasetSource`` (docs/datasets.md).
Standard library only: the trigger forms list the choices while DAG files are parsed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainyard.errors import ConfigurationError

if TYPE_CHECKING:
    from trainyard.settings import Settings

SCHEMES = ("https", "http", "file", "package")


class Format(StrEnum):
    """How the images lie in the archive; each has a reader in ``formats``."""

    DIGITS_CSV = "digits-csv"
    CIFAR_BINARY = "cifar-binary"


@dataclass(kw_only=True, slots=True, frozen=True)
class DatasetSource:
    """One data set as its publisher describes it."""

    name: str
    """Name used in specs, keys and commands."""
    title: str
    """Name for people."""
    url: str
    """https, http or file address, or package://module/path for a file of an installed package."""
    sha256: str
    """SHA-256 of the archive, 64 hex digits: its address in the object store."""
    size_bytes: int
    """Size of the archive."""
    format: Format
    """Layout inside the archive."""
    classes: tuple[str, ...]
    """Class names in label order."""
    train_images: int
    """Images of the training split."""
    test_images: int
    """Images of the test split."""
    licence: str
    """Terms of use."""
    homepage: str
    """Where the publisher describes it."""
    md5: str = ""
    """MD5 of the archive where that is what the publisher states; checked too."""
    checksum_source: str = ""
    """Who published the checksums."""

    def __post_init__(self) -> None:
        """Refuse an entry that could never be fetched, naming the field."""
        where = f"data set {self.name!r}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.name):
            raise ConfigurationError(
                f"{where}: a name has 1 to 64 of a-z, 0-9, _ and -, and starts with one of the "
                "first two"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigurationError(
                f"{where}: sha256 = {self.sha256!r}: must be 64 lower-case hex digits, as "
                "`sha256sum FILE` prints them"
            )
        if self.md5 and not re.fullmatch(r"[0-9a-f]{32}", self.md5):
            raise ConfigurationError(f"{where}: md5 = {self.md5!r}: must be 32 hex digits or empty")
        if urlsplit(self.url).scheme not in SCHEMES:
            raise ConfigurationError(
                f"{where}: url = {self.url!r}: must start with {', '.join(SCHEMES)}"
            )
        for name in ("size_bytes", "train_images", "test_images"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{where}: {name} = {getattr(self, name)}: must be >= 1")


# The file is the test part of the UCI set (1,797 of its 5,620 images), as scikit-learn ships it
# since 0.10; the SHA-256 was computed from scikit-learn 1.9.1's wheel, whose own hash is pinned in
# requirements/airflow.txt. UCI states CC BY 4.0 on the page named below.
DIGITS = DatasetSource(
    name="digits",
    title="Optical Recognition of Handwritten Digits (UCI), as shipped by scikit-learn",
    url="package://sklearn/datasets/data/digits.csv.gz",
    sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    size_bytes=57_523,
    format=Format.DIGITS_CSV,
    classes=tuple("0123456789"),
    train_images=1_442,
    test_images=355,
    licence="CC BY 4.0 (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository)",
    homepage="https://archive.ics.uci.edu/dataset/80",
    checksum_source="computed from the file in scikit-learn 1.9.1",
)

# MD5 and address: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version". Size and SHA-256:
# TensorFlow Datasets, tensorflow_datasets/url_checksums/cifar10.txt. The binary archive, not the
# Python one: reading pickles runs whatever code an attacker put in them.
CIFAR10 = DatasetSource(
    name="cifar10",
    title="CIFAR-10, binary version",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    size_bytes=170_052_171,
    format=Format.CIFAR_BINARY,
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    train_images=50_000,
    test_images=10_000,
    licence="none stated; the authors ask to cite Krizhevsky, 2009 (research use is customary)",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    checksum_source="MD5: cs.toronto.edu; SHA-256 and size: TensorFlow Datasets",
)

BUILT_IN = {source.name: source for source in (DIGITS, CIFAR10)}


def catalogue(settings: Settings | None = None) -> dict[str, DatasetSource]:
    """Return every data set by name: those built in, and those of ``settings.datasets_file``.

    Raises ``ConfigurationError`` naming the file, the table and the field that is wrong.
    """
    named = settings.datasets_file if settings else ""
    if not named:
        return dict(BUILT_IN)
    path = Path(named)
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"datasets_file {path}: {error.strerror}. Correct datasets_file in the settings file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"datasets_file {path}: not a TOML file: {error}") from error
    return BUILT_IN | {name: _entry(path, name, table) for name, table in tables.items()}


def choices(settings: Settings | None = None) -> tuple[str, ...]:
    """Return the names that ``fetch`` takes, sorted."""
    return tuple(sorted(catalogue(settings)))


def find(name: str, settings: Settings | None = None) -> DatasetSource:
    """Return the data set called *name*; raises ``ConfigurationError`` naming the choices."""
    known = catalogue(settings)
    if name in known:
        return known[name]
    listed = ", ".join(sorted(known))
    if name == "synthetic":
        raise ConfigurationError(
            "data set 'synthetic' needs no staging: the trainer makes it in memory. "
            f"Leave out the fetch step, or choose from {listed}"
        )
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigurationError(
        f"data set {name!r} is unknown: {meant}choose from {listed}, or describe it in the TOML "
        "file that datasets_file in the settings names (docs/datasets.md)"
    )


def _entry(path: Path, name: str, table: Any) -> DatasetSource:
    where = f"datasets_file {path}: [{name}]"
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} must be a table of fields")
    known = {item.name: item for item in fields(DatasetSource)}
    for key, value in table.items():
        if key not in known or key == "name":
            listed = ", ".join(sorted(set(known) - {"name"}))
            raise ConfigurationError(f"{where}: {key} is unknown; choose from {listed}")
        wanted = list if key == "classes" else int if known[key].type == "int" else str
        if type(value) is not wanted:
            raise ConfigurationError(f"{where}: {key} = {value!r}: must be {_KINDS[wanted]}")
    values = dict(table)
    if "classes" in values:
        values["classes"] = tuple(str(item) for item in values["classes"])
    if "format" in values:
        if values["format"] not in set(Format):
            raise ConfigurationError(
                f"{where}: format = {values['format']!r}: choose from {', '.join(Format)}"
            )
        values["format"] = Format(values["format"])
    if name in BUILT_IN:
        return replace(BUILT_IN[name], **values)
    try:
        return DatasetSource(name=name, **values)
    except TypeError as error:
        text = str(error).partition("__init__() ")[2] or str(error)
        raise ConfigurationError(f"{where}: {text}") from error


_KINDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list of class names"}
