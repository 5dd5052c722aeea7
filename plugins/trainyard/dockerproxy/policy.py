"""``Policy``: what the proxy permits, from one TOML file."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from trainyard.errors import ConfigurationError

GIB = 1024**3
_NEVER_BOUND = (
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin",
    "/sys", "/usr", "/var", "/var/lib", "/var/lib/docker", "/var/lib/containerd", "/var/run",
)  # fmt: skip
"""Host folders whose bind gives away the host; the engine's socket lies in /run."""
_BENEATH_NEVER_BOUND = ("/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/run",
                        "/var/lib/docker", "/var/lib/containerd")  # fmt: skip
_USER = re.compile(r"[1-9][0-9]{0,9}(:[1-9][0-9]{0,9})?")


@dataclass(kw_only=True, slots=True, frozen=True)
class Policy:
    """What clients may do; everything else is refused."""

    images: tuple[str, ...]
    """Images that may run: ``trainyard/trainer:*``; ``*`` stands for anything but a slash."""
    networks: tuple[str, ...]
    """Networks a container may join; ``none`` is one of them if named here."""
    volumes: tuple[str, ...] = ()
    """Named volumes that may be mounted, with ``*``."""
    binds: tuple[str, ...] = ()
    """Host folders that may be bound, exactly these."""
    binds_below: tuple[str, ...] = ()
    """Host folders below which anything may be bound; the proxy must see them at the same path."""
    pull: bool = False
    """Whether allowed images may be pulled."""
    gpus: bool = False
    """Whether containers may ask for GPUs."""
    runtimes: tuple[str, ...] = ()
    """OCI runtimes a container may name, beside the engine's default."""
    user: str = "10001:10001"
    """``uid:gid`` that a container without a user gets; root is always refused."""
    memory_bytes: int = 64 * GIB
    """Most memory of one container, and what one gets that asks for none."""
    shm_bytes: int = 16 * GIB
    """Most shared memory of one container."""
    pids: int = 4096
    """Most processes and threads of one container, and what one gets that asks for none."""
    listen: str = "127.0.0.1:2375"
    """``host:port`` to listen on."""
    socket: str = "/var/run/docker.sock"
    """The engine's socket."""

    def __post_init__(self) -> None:
        """Check every field; raises ``ConfigurationError`` naming it."""
        for name in ("images", "networks"):
            if not getattr(self, name):
                raise ConfigurationError(f"{name} is empty: name at least one, or nothing can run")
        for name in ("binds", "binds_below"):
            for folder in getattr(self, name):
                _check_folder(name, folder)
        if not _USER.fullmatch(self.user):
            raise ConfigurationError(
                f"user = {self.user!r}: must be uid or uid:gid in digits, neither of them 0"
            )
        for name in ("memory_bytes", "shm_bytes", "pids"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} = {getattr(self, name)}: must be more than 0")
        _check_networks(self.networks)
        self.address()

    def address(self) -> tuple[str, int]:
        """Return host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - TCP's limit
            raise ConfigurationError(f"listen = {self.listen!r}: must be host:port")
        return host.strip("[]"), int(port)


def _check_folder(name: str, folder: str) -> None:
    if not folder.startswith("/") or str(PurePosixPath(folder)) != folder or ".." in folder:
        raise ConfigurationError(
            f"{name} has {folder!r}: must be an absolute path without .., // and trailing slash"
        )
    beneath = any(folder.startswith(f"{place}/") for place in _BENEATH_NEVER_BOUND)
    if folder in _NEVER_BOUND or beneath:
        raise ConfigurationError(
            f"{name} has {folder!r}: who can bind it owns the host; use a folder that holds only "
            "runs or data, such as /srv/trainyard/runs"
        )


def _check_networks(networks: tuple[str, ...]) -> None:
    for network in networks:
        if network == "host" or network.startswith("container:"):
            raise ConfigurationError(
                f"networks has {network!r}: it shares the network of the host or of another "
                "container; name a network of your own"
            )


def matches(pattern: str, text: str) -> bool:
    """Return whether *text* is *pattern*, in which ``*`` stands for anything without a slash."""
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch("[^/]*".join(parts), text) is not None


def matches_any(patterns: tuple[str, ...], text: str) -> bool:
    """Return whether one of *patterns* is *text*."""
    return any(matches(pattern, text) for pattern in patterns)


def load_policy(path: Path) -> Policy:
    """Return the policy in the TOML file *path*.

    Raises ``ConfigurationError`` naming file, key and what may stand there.
    """
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"docker proxy's policy {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"docker proxy's policy {path}: not a TOML file: {error}"
        ) from error
    try:
        return _policy_of(table)
    except ConfigurationError as error:
        raise ConfigurationError(f"docker proxy's policy {path}: {error}") from error


def _policy_of(table: dict[str, Any]) -> Policy:
    kinds = {field.name: str(field.type) for field in fields(Policy)}
    for key in table:
        if key not in kinds:
            raise ConfigurationError(f"{key} is unknown; choose from {', '.join(sorted(kinds))}")
    missing = [name for name in ("images", "networks") if name not in table]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)} missing: nothing is permitted unnamed")
    return Policy(**{key: _value(key, kinds[key], value) for key, value in table.items()})


def _value(key: str, kind: str, value: Any) -> Any:
    if kind.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return tuple(value)
        raise ConfigurationError(f"{key} = {value!r}: must be a list of texts")
    wanted = {"str": str, "int": int, "bool": bool}[kind]
    if type(value) is not wanted:
        raise ConfigurationError(f"{key} = {value!r}: must be of type {kind}")
    return value
