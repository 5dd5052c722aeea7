"""What goes wrong between us and a Docker engine, in words a person can act on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from trainyard.errors import ConfigurationError, UnavailableError

_FORBIDDEN = 403
_CONNECT_S = 10.0


class EngineGoneError(UnavailableError):
    """The engine does not answer."""


@contextlib.contextmanager
def explained(host: str, doing: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors: who did not answer or refused, and what to do."""
    import requests
    from docker.errors import APIError, DockerException  # type: ignore[import-untyped]

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
    parts = urlsplit(host)
    if parts.scheme == "unix" and isinstance(error, FileNotFoundError):
        return (
            f"no Docker engine: {parts.path} does not exist. Start it (systemctl start docker), or "
            "name another one in docker.host or DOCKER_HOST"
        )
    if parts.scheme == "unix" and isinstance(error, PermissionError):
        return (
            f"no permission on {parts.path}: user {os.getuid()} is not in the group that owns it. "
            "Add it (usermod -aG docker, then log in again), or use a socket proxy"
        )
    return (
        f"Docker at {host} does not answer: {error}. Check that it runs (docker --host {host} info)"
    )


def check_socket(host: str) -> None:
    """Raise ``EngineGoneError`` when *host* is a socket without a listener or a right to it.

    The SDK wraps such an error twice, names no cause, and leaves its own socket to the collector.
    """
    parts = urlsplit(host)
    if parts.scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as tried:
        tried.settimeout(_CONNECT_S)
        try:
            tried.connect(parts.path)
        except OSError as error:
            raise EngineGoneError(unreachable(host, error)) from error
