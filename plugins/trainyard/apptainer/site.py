"""``ApptainerSite``: the image that runs of a ``Site`` happen in. Pure; checked at construction."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import PurePosixPath

from trainyard.errors import ConfigurationError
from trainyard.tables import known, typed


class GpuLibraries(StrEnum):
    """Whose driver libraries the container gets for runs on GPUs."""

    NVIDIA = "nv"
    ROCM = "rocm"
    NONE = "none"


class Home(StrEnum):
    """What the container sees of the user's home folder."""

    NONE = "none"
    """Nothing: what lies there on one machine must not change a run."""
    RUN = "run"
    """The run folder stands in for it, for programs that insist on writing there."""
    HOST = "host"
    """All of it."""


class Mpi(StrEnum):
    """How ranks are started, and whose MPI they use."""

    NONE = "none"
    """torchrun inside the container, once per node; MPI plays no part."""
    HYBRID = "hybrid"
    """One srun task per rank, with the image's MPI speaking PMIx to Slurm."""
    BIND = "bind"
    """One srun task per rank, with the host's MPI, bound into the container."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ImageIdentity:
    """Which image it is, and how to see at a glance that the file is still the same."""

    sha256: str
    """SHA-256 of the image file, 64 hex digits."""
    size: int
    """Its bytes."""
    mtime: str
    """Time of its last change: seconds since 1970, with nine decimals as ``stat`` prints them."""
    inode: int
    """Its number in its file system."""

    def __post_init__(self) -> None:
        """Refuse what no image has."""
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigurationError(f"sha256 = {self.sha256!r}: must be 64 hex digits")
        if not re.fullmatch(r"[0-9]+\.[0-9]+", self.mtime) or self.size < 1 or self.inode < 0:
            raise ConfigurationError(
                f"size {self.size}, mtime {self.mtime!r}, inode {self.inode}: no file has these"
            )

    @property
    def digest(self) -> str:
        """The digest as provenance records it."""
        return f"sha256:{self.sha256}"


ARCHIVE = "docker-archive:"


@dataclass(kw_only=True, slots=True, frozen=True)
class ApptainerSite:
    """One image and what its containers see; for the launchers ``process`` and ``slurm``."""

    image: str
    """Image file (``.sif``), or ``docker-archive:`` and a file that ``docker save`` wrote."""
    executable: str = "apptainer"
    """The program; a path where it is not on the PATH, or ``singularity``."""
    binds: tuple[str, ...] = ()
    """Further folders to see: ``/path``, ``/from:/to`` or ``/from:/to:ro``."""
    scratch: str = ""
    """Folder for temporary files, seen under the same path and given as TMPDIR; empty: /tmp."""
    gpu_libraries: GpuLibraries = GpuLibraries.NVIDIA
    """Whose driver libraries runs on GPUs get: ``--nv``, ``--rocm`` or none."""
    clean_environment: bool = True
    """Start from an empty environment, so that nothing on the host changes a run unseen."""
    pass_environment: tuple[str, ...] = ()
    """Variables of the host to pass in, when they are set; ``UCX_*`` means all with that prefix."""
    home: Home = Home.NONE
    """What is seen of the user's home folder."""
    userns: bool = False
    """Run in a user namespace (``--userns``), although the installation has a setuid helper."""
    mpi: Mpi = Mpi.NONE
    """How ranks are started, and whose MPI they use."""
    mpi_type: str = "pmix"
    """What ``srun --mpi`` is given when ``mpi`` is used; ``srun --mpi=list`` shows the choices."""
    mpi_dir: str = ""
    """The host's MPI installation, when ``mpi`` is ``bind``."""
    identity: ImageIdentity | None = None
    """Which image it is; found out when a study is planned, never written in a site file."""

    def __post_init__(self) -> None:
        """Refuse what Apptainer would read in another way than it is meant."""
        _check_image(self.image)
        for name in ("executable", "scratch", "mpi_dir"):
            _one_line(name, getattr(self, name))
        for name in ("scratch", "mpi_dir"):
            if value := getattr(self, name):
                check_folder(name, value)
        for bind in self.binds:
            _check_bind(bind)
        for pattern in self.pass_environment:
            _check_pattern(pattern)
        if not self.executable:
            raise ConfigurationError("apptainer.executable is empty; name it, or leave it out")
        if (self.mpi is Mpi.BIND) != bool(self.mpi_dir):
            raise ConfigurationError(
                f"apptainer.mpi = {self.mpi.value!r}, apptainer.mpi_dir = {self.mpi_dir!r}: 'bind' "
                "and the folder of the host's MPI belong together; give both or neither"
            )
        if not re.fullmatch(r"[a-z0-9_]+", self.mpi_type):
            raise ConfigurationError(
                f"apptainer.mpi_type = {self.mpi_type!r}: must be a name that `srun --mpi=list` "
                "shows, such as pmix or pmi2"
            )

    @property
    def file(self) -> str:
        """The image file, without what kind of file it is."""
        return self.image.removeprefix(ARCHIVE)

    @property
    def starts_ranks(self) -> bool:
        """Whether srun starts every rank itself, instead of torchrun once per node."""
        return self.mpi is not Mpi.NONE


def check_folder(field: str, folder: str) -> None:
    """Raise unless *folder* can be bound under its own name."""
    if not PurePosixPath(folder).is_absolute() or set(folder) & set(",:"):
        raise ConfigurationError(
            f"{field} = {folder!r}: to be seen in the container it must be an absolute path "
            "without commas and colons, at which Apptainer splits; choose another folder"
        )


def _check_image(image: str) -> None:
    _one_line("image", image)
    file = image.removeprefix(ARCHIVE)
    if "://" in image:
        raise ConfigurationError(
            f"apptainer.image = {image!r}: an image that every run would fetch again may be "
            "another one each time; build a file once: "
            f"apptainer build /shared/images/trainer.sif {image}"
        )
    if not PurePosixPath(file).is_absolute():
        raise ConfigurationError(
            f"apptainer.image = {image!r}: must be the absolute path of a .sif file, or "
            f"{ARCHIVE}/path/of/a/docker-save.tar"
        )


def _check_bind(bind: str) -> None:
    _one_line("binds", bind)
    source, _, rest = bind.partition(":")
    target, _, mode = rest.partition(":")
    paths = (source, target or source)
    absolute = all(PurePosixPath(path).is_absolute() for path in paths)
    if not absolute or "," in bind or mode not in {"", "ro", "rw"}:
        raise ConfigurationError(
            f"apptainer.binds: {bind!r} must be /path, /from:/to or /from:/to:ro, absolute and "
            "without a comma, at which Apptainer splits"
        )


def _check_pattern(pattern: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", pattern):
        raise ConfigurationError(
            f"apptainer.pass_environment: {pattern!r} must be the name of a variable, or the "
            "beginning of names and a star, such as UCX_*"
        )


def _one_line(field: str, value: str) -> None:
    if any(ord(character) < ord(" ") for character in value):
        raise ConfigurationError(
            f"apptainer.{field} = {value!r}: must be one line without control characters"
        )


def parse_apptainer(table: object, where: str) -> ApptainerSite:
    """Return the record of a ``[site.apptainer]`` table; *where* names it in errors."""
    defaults = {f.name: f.default for f in fields(ApptainerSite) if f.name != "identity"}
    values = known(table, defaults, where)
    if "image" not in values:
        raise ConfigurationError(
            f"{where}.image is missing: name the image file, such as /shared/images/trainer.sif; "
            "docs/apptainer.md says how to build it"
        )
    defaults["image"] = ""
    made = {name: typed(v, defaults[name], f"{where}.{name}") for name, v in values.items()}
    return ApptainerSite(**made)
