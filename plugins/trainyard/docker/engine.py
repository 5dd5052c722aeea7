"""``Engine``: the few things asked of a Docker engine, with errors a person can act on.

No more than a socket proxy should let through: version, info, inspecting images, and creating,
starting, inspecting, ending, reading and removing containers; pulling where the site says so.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainyard.docker.site import DockerSite
from trainyard.errors import ConfigurationError, UnavailableError

DEFAULT_HOST = "unix:///var/run/docker.sock"
TIMEOUT_S = 20
"""Seconds for one answer; the trigger waits in a thread."""
PULL_TIMEOUT_S = 3600
LOG_LINES = 100
_NOT_FOUND, _CONFLICT, _FORBIDDEN = 404, 409, 403


class EngineGoneError(UnavailableError):
    """The engine does not answer."""


class NameTakenError(ConfigurationError):
    """A container of that name exists."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Image:
    """An image as the engine has it."""

    id: str
    """``sha256:…`` of its configuration."""
    digest: str
    """``name@sha256:…`` by which a registry knows it; its id when no registry does."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Version:
    """What an engine is."""

    engine: str
    """Version of Docker."""
    api: str
    """Newest version of the API it speaks."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Container:
    """A container as the engine has it."""

    id: str
    name: str
    image_id: str
    labels: dict[str, str]
    status: str
    """created, running, paused, restarting, removing, exited or dead."""
    exit_code: int
    oom_killed: bool
    error: str
    created_at: str
    started_at: str
    finished_at: str

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in {"exited", "dead"}


class Engine:
    """One Docker engine. Blocks: use it in a thread."""

    def __init__(self, host: str, connect: Callable[[], Any]) -> None:
        """Ask nobody yet; *connect* makes a ``docker.APIClient``, *host* names it in errors."""
        self.host = host
        self._connect = connect

    def again(self) -> Engine:
        """Return the same engine with a connection of its own, for a signal handler."""
        return Engine(self.host, self._connect)

    @cached_property
    def _client(self) -> Any:
        with _explained(self.host, "connect"):
            return self._connect()

    def version(self) -> Version:
        """Return which version the engine is."""
        with _explained(self.host, "tell its version"):
            found = self._client.version()
        return Version(engine=found["Version"], api=found["ApiVersion"])

    def info(self) -> dict[str, Any]:
        """Return what the engine says of itself (``docker info``)."""
        with _explained(self.host, "info"):
            found: dict[str, Any] = self._client.info()
            return found

    def image(self, name: str) -> Image | None:
        """Return the image called *name*, or None when the engine does not have it."""
        with _explained(self.host, f"inspect image {name}"):
            try:
                found = self._client.inspect_image(name)
            except _api_error() as error:
                if error.status_code == _NOT_FOUND:
                    return None
                raise
        digests = found.get("RepoDigests") or []
        return Image(id=found["Id"], digest=sorted(digests)[0] if digests else found["Id"])

    def pull(self, name: str) -> None:
        """Pull the image called *name*; raises ``UnavailableError`` with the registry's words."""
        with _explained(self.host, f"pull {name}"):
            self._client.timeout = PULL_TIMEOUT_S
            try:
                for line in self._client.pull(name, stream=True, decode=True):
                    if "error" in line:
                        raise UnavailableError(f"image {name} cannot be pulled: {line['error']}")
            finally:
                self._client.timeout = TIMEOUT_S

    def create(self, name: str, body: dict[str, Any]) -> None:
        """Make a container; raises ``NameTakenError`` where there is one of that name."""
        with _explained(self.host, f"create container {name}"):
            try:
                self._client.create_container_from_config(body, name)
            except _api_error() as error:
                if error.status_code == _CONFLICT and "is already in use" in str(error):
                    raise NameTakenError(f"container name {name} is taken") from error
                raise

    def start(self, name: str) -> None:
        """Start a container; one that runs already stays as it is."""
        with _explained(self.host, f"start container {name}"):
            self._client.start(name)

    def inspect(self, name: str) -> Container | None:
        """Return the container called *name*, or None when there is none."""
        with _explained(self.host, f"inspect container {name}"):
            try:
                return _container(self._client.inspect_container(name))
            except _api_error() as error:
                if error.status_code == _NOT_FOUND:
                    return None
                raise

    def log_tail(self, name: str) -> str:
        """Return the end of what a container said to the engine; empty when there is no log."""
        with _explained(self.host, f"read the log of container {name}"):
            try:
                text = self._client.logs(name, stdout=True, stderr=True, tail=LOG_LINES)
            except _api_error():  # no log driver that can be read, or gone: it is no evidence
                return ""
        return bytes(text).decode("utf-8", "replace")

    def signal(self, name: str, number: str) -> None:
        """Send a signal to a container; nothing happens to one that does not run."""
        with _explained(self.host, f"end container {name}"):
            try:
                self._client.kill(name, number)
            except _api_error() as error:
                if error.status_code not in {_NOT_FOUND, _CONFLICT}:
                    raise

    def remove(self, name: str) -> None:
        """Remove a container and its anonymous volumes, running or not; one that is gone stays."""
        with _explained(self.host, f"remove container {name}"):
            try:
                self._client.remove_container(name, force=True, v=True)
            except _api_error() as error:
                # 409: its removal is in progress already.
                if error.status_code not in {_NOT_FOUND, _CONFLICT}:
                    raise


def _api_error() -> Any:
    from docker.errors import APIError  # type: ignore[import-untyped]

    return APIError


def _container(found: dict[str, Any]) -> Container:
    state = found["State"]
    return Container(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        image_id=found["Image"],
        labels=found["Config"].get("Labels") or {},
        status=state["Status"],
        exit_code=int(state["ExitCode"]),
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error", ""),
        created_at=found["Created"],
        started_at=state.get("StartedAt", ""),
        finished_at=state.get("FinishedAt", ""),
    )


@contextlib.contextmanager
def _explained(host: str, doing: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors: who did not answer or refused, and what to do."""
    import requests
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise _refusal(host, doing, error.status_code, str(error.explanation or error)) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineGoneError(unreachable(host, error)) from error


def _refusal(host: str, doing: str, status: int | None, said: str) -> Exception:
    said = said.strip().rstrip(".")
    if status == _FORBIDDEN:
        return ConfigurationError(
            f"Docker at {host} refuses to {doing}: {said}. Behind a socket proxy only labelled "
            "containers of the allowed images, mounts and networks may be made; compare the site "
            "with the proxy's rules"
        )
    for words, fix in _FIXES:
        if words in said:
            return ConfigurationError(f"Docker at {host} cannot {doing}: {said}. {fix}")
    # Below 500 the request is wrong and stays wrong; above, the engine may recover.
    kind = ConfigurationError if status is not None and status < 500 else UnavailableError  # noqa: PLR2004
    return kind(f"Docker at {host} cannot {doing}: {said}")


_FIXES = (
    (
        "could not select device driver",
        "Install the NVIDIA container toolkit on the engine's host, or set gpus_per_node = 0",
    ),
    (
        "bind source path does not exist",
        "The engine sees another file system than this task: use the same path on its host, or "
        "name volumes in docker.mounts",
    ),
    ("No such image", "Build it (make images), pull it, or set docker.pull = 'missing'"),
    (
        "network",
        "docker network ls shows what there is; docker network create makes one",
    ),
)


def unreachable(host: str, error: object) -> str:
    """Return why the engine at *host* cannot be asked, and what to do."""
    return _socket_fault(host) or (
        f"Docker at {host} does not answer: {error}. Check that it runs (docker --host {host} info)"
    )


def check_socket(host: str) -> None:
    """Raise ``EngineGoneError`` when *host* is a socket that is missing or closed to this user."""
    if fault := _socket_fault(host):
        raise EngineGoneError(fault)


def _socket_fault(host: str) -> str:
    parts = urlsplit(host)
    if parts.scheme != "unix":
        return ""
    socket = Path(parts.path)
    if not socket.exists():
        return (
            f"no Docker engine: {socket} does not exist. Start it (systemctl start docker), or "
            "name another one in docker.host or DOCKER_HOST"
        )
    if stat.S_ISSOCK(socket.stat().st_mode) and not os.access(socket, os.R_OK | os.W_OK):
        return (
            f"no permission on {socket}: user {os.getuid()} is not in the group that owns it "
            f"(gid {socket.stat().st_gid}). Add it (usermod -aG docker), or use a socket proxy"
        )
    return ""


def local_engine(docker: DockerSite) -> Engine:
    """Return the engine that a site and this process's environment name, without Airflow."""
    host = docker.host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST

    def connect() -> Any:
        from docker import APIClient  # type: ignore[import-untyped]

        return APIClient(base_url=host, timeout=TIMEOUT_S)

    return Engine(host, connect)
