"""``DockerSite``: what a Docker engine adds to a ``Site``. Pure; checked at construction."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import PurePosixPath

from trainyard.errors import ConfigurationError
from trainyard.tables import known, typed


class Containers(StrEnum):
    """How the ranks of a run are spread over containers."""

    ONE = "one"
    """All ranks of a node in one container."""
    PER_RANK = "per_rank"
    """Each rank in a container of its own: every one counts as a node."""


class Pull(StrEnum):
    """When an image is pulled before a run."""

    NEVER = "never"
    MISSING = "missing"
    ALWAYS = "always"


OWNER = "owner"
"""``user`` of a site whose containers run as whoever owns the run folder."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Mount:
    """One folder or volume that a container sees."""

    source: str
    """Folder on the engine's host, or name of a volume."""
    target: str
    """Where the container sees it."""
    read_only: bool = False
    """Whether the container may only read it."""

    @property
    def is_volume(self) -> bool:
        """Whether the source is a named volume."""
        return not self.source.startswith("/")

    def covers(self, path: str) -> bool:
        """Whether *path* lies in what is mounted."""
        return PurePosixPath(path).is_relative_to(self.target)


@dataclass(kw_only=True, slots=True, frozen=True)
class DockerSite:
    """One way to run in containers of one Docker engine."""

    image: str
    """Image of the trainer, with its tag or digest."""
    host: str = ""
    """Engine, as ``unix:///path`` or ``tcp://host:port``; empty: that of the connection, else of
    DOCKER_HOST, else the socket of this host."""
    connection: str = ""
    """Airflow connection of type docker: engine, TLS files, login of the registry."""
    pull: Pull = Pull.NEVER
    """When the image is pulled before a run."""
    containers: Containers = Containers.ONE
    """How ranks are spread over containers."""
    network: str = "none"
    """Network; none: ranks of one container meet without one. Several containers need one of their
    own, in which names resolve."""
    port: int = 29500
    """Port on which the first container of several is met by the others."""
    mounts: tuple[str, ...] = ()
    """``source:target`` or ``source:target:ro``; a volume or a folder. One whose target holds
    runs_dir or data_dir takes the place of the bind mount that is made for it otherwise."""
    shm_bytes: int = 1 << 30
    """Shared memory of a container: loader workers and NCCL need more than Docker's 64 MiB."""
    tmp_bytes: int = 1 << 30
    """Size of /tmp, the only writable place beside the mounts, in memory."""
    memory_bytes: int = 0
    """Memory limit of each container, without swap; 0: none."""
    cpus: float = 0.0
    """CPU quota of each container; 0: none. It throttles: prefer ``cpuset`` where time is taken."""
    cpuset: str = ""
    """Cores that containers may use, such as ``0-7,16``; empty: all."""
    ulimits: tuple[str, ...] = ()
    """``name=soft`` or ``name=soft:hard``; empty: the engine's, and with GPUs NVIDIA's advice."""
    gpus: tuple[str, ...] = ()
    """Indices or UUIDs of the GPUs to use, in order; empty: from index 0."""
    user: str = OWNER
    """``owner``: whoever owns the run folder; ``uid:gid``; empty: the image's own."""
    pids: int = 4096
    """Processes and threads a container may have."""
    log_bytes: int = 10 << 20
    """Size at which the engine rotates a container's own log, of which it keeps three."""

    def __post_init__(self) -> None:
        """Refuse what no engine takes, with the rule and the choices."""
        for name, pattern, rule in _PATTERNS:
            value = getattr(self, name)
            if value and not pattern.fullmatch(value):
                raise ConfigurationError(f"docker.{name} = {value!r}: must be {rule}")
        if not self.image:
            raise ConfigurationError(
                "docker.image is empty; name the trainer's image, such as trainyard/trainer:dev"
            )
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigurationError(f"docker.{name} = {value!r}: must be {least} to {most}")
        if 0 < self.memory_bytes < _LEAST_MEMORY:
            raise ConfigurationError(
                f"docker.memory_bytes = {self.memory_bytes}: must be {_LEAST_MEMORY} or more, or 0 "
                "for no limit"
            )
        self._check_lists()

    def _check_lists(self) -> None:
        for limit in self.ulimits:
            parse_ulimit(limit)
        for gpu in self.gpus:
            if not _GPU.fullmatch(gpu):
                raise ConfigurationError(
                    f"docker.gpus: {gpu!r} must be an index or a UUID, as nvidia-smi -L shows"
                )
        targets = [mount.target for mount in self.all_mounts]
        if twice := sorted({target for target in targets if targets.count(target) > 1}):
            raise ConfigurationError(f"docker.mounts: {twice[0]!r} is the target of two mounts")

    @property
    def all_mounts(self) -> tuple[Mount, ...]:
        """``mounts``, read."""
        return tuple(parse_mount(text) for text in self.mounts)

    @property
    def names_resolve(self) -> bool:
        """Whether containers of the network find each other by name."""
        return self.network not in {"bridge", "default", "host", "none"} and (
            not self.network.startswith("container:")
        )


_LEAST_MEMORY = 6 << 20  # the engine's own least, "Minimum memory limit allowed is 6MB"
_HOST = re.compile(r"(unix:///\S+|(tcp|http|https)://[^\s/@]+)")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
_USER = re.compile(r"owner|[0-9]+:[0-9]+")
_CPUSET = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_GPU = re.compile(r"[0-9]+|(GPU|MIG)-[A-Za-z0-9/-]+")
_ULIMIT = re.compile(r"([a-z]+)=(-1|[0-9]+)(?::(-1|[0-9]+))?")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")
_PATTERNS = (
    ("image", _IMAGE, "an image with its tag or digest, such as trainyard/trainer:dev"),
    ("host", _HOST, "unix:///path, tcp://host:port or https://host:port, without a password"),
    ("connection", _WORD, "the id of an Airflow connection"),
    ("network", _WORD, "the name of a network, or bridge, host or none"),
    ("user", _USER, "'owner', numbers as in '1000:1000', or empty for the image's own"),
    ("cpuset", _CPUSET, "cores as in 0-7,16"),
)
_MANY = 1 << 50
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("port", 1024, 65535),
    ("shm_bytes", 1 << 16, _MANY),
    ("tmp_bytes", 1 << 16, _MANY),
    ("memory_bytes", 0, _MANY),
    ("cpus", 0, 100_000),
    ("pids", 16, 1 << 22),
    ("log_bytes", 1 << 10, 1 << 40),
)


def parse_mount(text: str) -> Mount:
    """Return the mount that ``source:target[:ro]`` describes, or raise with the rule."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    named = bool(source.startswith("/") or _VOLUME.fullmatch(source))
    if not (named and target.startswith("/") and target != "/" and mode in {"", "ro", "rw"}):
        raise ConfigurationError(
            f"docker.mounts: {text!r} must be source:target or source:target:ro, the source a "
            "volume's name or an absolute path, the target an absolute path"
        )
    return Mount(source=source, target=str(PurePosixPath(target)), read_only=mode == "ro")


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """Return name, soft and hard limit of ``name=soft[:hard]``, or raise with the rule."""
    found = _ULIMIT.fullmatch(text)
    if found is None:
        raise ConfigurationError(
            f"docker.ulimits: {text!r} must be name=soft or name=soft:hard, such as memlock=-1"
        )
    name, soft, hard = found.groups()
    return name, int(soft), int(hard or soft)


def parse_docker(table: object, where: str) -> DockerSite:
    """Return the record of a ``[site.docker]`` table; *where* names it in errors."""
    defaults = {field.name: field.default for field in fields(DockerSite)}
    values = known(table, defaults, where)
    if "image" not in values:
        raise ConfigurationError(
            f"{where}.image is missing; name the trainer's image, such as trainyard/trainer:dev"
        )
    defaults["image"] = ""
    made = {name: typed(v, defaults[name], f"{where}.{name}") for name, v in values.items()}
    return DockerSite(**made)
