"""The Compose file by which the cluster's nodes see the host's profilers (``TRAINER_TOOLS``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainyard.compose import envfile
from trainyard.compose.render import SLURM_NODES, tools

_NAME = "tools.json"


def write(folder: Path, values: Mapping[str, str]) -> None:
    """Write the file into *folder*; take it away when no tools are chosen."""
    path = folder / _NAME
    mounts = [
        # Docker would make a folder that is not there, and nobody would miss the tool.
        {"type": "bind", "source": tool, "target": tool, "read_only": True,
         "bind": {"create_host_path": False}}
        for tool in tools(values)
    ]  # fmt: skip
    if not mounts:
        path.unlink(missing_ok=True)
        return
    nodes = {f"slurm-node-{number + 1}": {"volumes": mounts} for number in range(SLURM_NODES)}
    envfile.write_private(path, json.dumps({"services": nodes}, indent=1) + "\n")


def files(folder: Path, profiles: Iterable[str]) -> tuple[str, ...]:
    """Return the file's path where it was written and the cluster is part of the stack."""
    path = folder / _NAME
    return (str(path),) if "slurm" in profiles and path.exists() else ()
