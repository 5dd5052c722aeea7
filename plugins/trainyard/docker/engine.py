"""``Engine``: the few things asked of a Docker engine, with errors a person can act on.

No more than a socket proxy should let through: version, info, inspecting images, and creating,
starting, inspecting, ending, reading and removing containers; pulling where the site says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from trainyard.docker.faults import check_socket, explained
from trainyard.docker.site import DockerSite
from trainyard.errors import ConfigurationError, UnavailableError

DEFAULT_HOST = "unix:///var/run/docker.sock"
TIMEOUT_S = 20
"""Seconds for one answer; the trigger waits in a thread."""
PULL_TIMEOUT_S = 3600
LOG_LINES = 100
_NOT_FOUND, _CONFLICT = 404, 409


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
        self._client: Any = None

    def again(self) -> Engine:
        """Return the same engine with a connection of its own, for a signal handler."""
        return Engine(self.host, self._connect)

    @contextlib.contextmanager
    def _asking(self, doing: str) -> Iterator[Any]:
        """Give the client for one question; what goes wrong is told as *doing* having failed."""
        with explained(self.host, doing):
            check_socket(self.host)
            if self._client is None:
                self._client = self._connect()
            try:
                yield self._client
            finally:
                # No connection is kept: none goes stale over a restart of the engine.
                self._client.close()

    def version(self) -> Version:
        """Return which version the engine is."""
        with self._asking("tell its version") as client:
            found = client.version()
        return Version(engine=found["Version"], api=found["ApiVersion"])

    def info(self) -> dict[str, Any]:
        """Return what the engine says of itself (``docker info``)."""
        with self._asking("info") as client:
            found: dict[str, Any] = client.info()
            return found

    def image(self, name: str) -> Image | None:
        """Return the image called *name*, or None when the engine does not have it."""
        with self._asking(f"inspect image {name}") as client:
            try:
                found = client.inspect_image(name)
            except _api_error() as error:
                if error.status_code == _NOT_FOUND:
                    return None
                raise
        digests = found.get("RepoDigests") or []
        return Image(id=found["Id"], digest=sorted(digests)[0] if digests else found["Id"])

    def pull(self, name: str) -> None:
        """Pull the image called *name*; raises ``UnavailableError`` with the registry's words."""
        with self._asking(f"pull {name}") as client:
            client.timeout = PULL_TIMEOUT_S
            try:
                for line in client.pull(name, stream=True, decode=True):
                    if "error" in line:
                        raise UnavailableError(f"image {name} cannot be pulled: {line['error']}")
            finally:
                client.timeout = TIMEOUT_S

    def create(self, name: str, body: dict[str, Any]) -> None:
        """Make a container; raises ``NameTakenError`` where there is one of that name."""
        with self._asking(f"create container {name}") as client:
            try:
                client.create_container_from_config(body, name)
            except _api_error() as error:
                if error.status_code == _CONFLICT and "is already in use" in str(error):
                    raise NameTakenError(f"container name {name} is taken") from error
                raise

    def start(self, name: str) -> None:
        """Start a container; one that runs already stays as it is."""
        with self._asking(f"start container {name}") as client:
            client.start(name)

    def inspect(self, name: str) -> Container | None:
        """Return the container called *name*, or None when there is none."""
        with self._asking(f"inspect container {name}") as client:
            try:
                return _container(client.inspect_container(name))
            except _api_error() as error:
                if error.status_code == _NOT_FOUND:
                    return None
                raise

    def log_tail(self, name: str) -> str:
        """Return the end of what a container said to the engine; empty when there is no log."""
        with self._asking(f"read the log of container {name}") as client:
            try:
                text = client.logs(name, stdout=True, stderr=True, tail=LOG_LINES)
            except _api_error():  # no log driver that can be read, or gone: it is no evidence
                return ""
        return bytes(text).decode("utf-8", "replace")

    def signal(self, name: str, number: str) -> None:
        """Send a signal to a container; nothing happens to one that does not run."""
        with self._asking(f"end container {name}") as client:
            try:
                client.kill(name, number)
            except _api_error() as error:
                if error.status_code not in {_NOT_FOUND, _CONFLICT}:
                    raise

    def remove(self, name: str) -> None:
        """Remove a container and its anonymous volumes, running or not; one that is gone stays."""
        with self._asking(f"remove container {name}") as client:
            try:
                client.remove_container(name, force=True, v=True)
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


def local_engine(docker: DockerSite) -> Engine:
    """Return the engine that a site and this process's environment name, without Airflow."""
    host = docker.host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST

    def connect() -> Any:
        from docker import APIClient  # type: ignore[import-untyped]

        return APIClient(base_url=host, timeout=TIMEOUT_S)

    return Engine(host, connect)
