"""What can be known before anything starts: free ports, memory, disk, a lost ``.env``."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainyard.compose.engine import Engine
from trainyard.compose.keys import PORTS, TLS_PORTS
from trainyard.errors import ConfigurationError, UnavailableError

_GIB = 2**30
LEAST_MEMORY = 6 * _GIB
"""What the stack takes when idle, by its own benchmark, and room for a small run."""
LEAST_DISK = 5 * _GIB
IMAGES_DISK = 20 * _GIB
"""Room for building or pulling the images, beside ``LEAST_DISK``."""


def check_room(machine: Engine, *, images: bool) -> None:
    """Raise when the engine's machine has too little memory or disk; *images*: all are there."""
    if machine.memory_bytes < LEAST_MEMORY:
        raise UnavailableError(
            f"the engine has {machine.memory_bytes / _GIB:.1f} GiB of memory, the stack needs "
            f"{LEAST_MEMORY / _GIB:.0f}. Give it more (Docker Desktop: Settings, Resources), or "
            "use `make demo`, which runs without containers"
        )
    root = Path(machine.root)
    if not root.is_dir():  # another machine, or a folder that only root may see
        return
    needed = LEAST_DISK + (0 if images else IMAGES_DISK)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UnavailableError(
            f"{root} has {free / _GIB:.1f} GiB free, the stack needs {needed / _GIB:.0f}. Free "
            "some: `docker system df` shows what takes it, `docker image prune` removes unused "
            "layers"
        )


def check_ports(
    config: Mapping[str, Any], values: Mapping[str, str], own: Iterable[int] = ()
) -> None:
    """Raise for the first published port that somebody else listens on, naming its variable.

    *own*: ports that containers of this stack publish already.
    """
    variables = {int(values[port.variable]): port.variable for port in (*PORTS, *TLS_PORTS)}
    seen: dict[tuple[str, int], str] = {}
    for service, port in published(config):
        number = int(port["published"])
        name = variables.get(number, "its variable")
        if other := seen.get((port["host_ip"], number)):
            raise ConfigurationError(
                f"{name} = {number}: {service} and {other} cannot share a port; change one in .env"
            )
        seen[port["host_ip"], number] = service
        if number not in own and not is_free(port["host_ip"], number):
            raise ConfigurationError(
                f"{name} = {number}: something else listens on {port['host_ip']}:{number}, which "
                f"{service} needs. Stop it, or choose another port: set {name} in .env"
            )


def published(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (service, port) for each port that a rendered project publishes."""
    return [
        (name, port)
        for name, service in config["services"].items()
        for port in service.get("ports", ())
    ]


def is_free(address: str, number: int) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError:
            return False
    return True
