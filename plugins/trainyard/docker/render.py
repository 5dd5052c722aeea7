"""How a run's containers are made, as pure functions with golden files.

A ``Creation`` is the body of ``POST /containers/create`` but for two facts that only the engine and
the run folder know: which image it is by digest, and who the run belongs to.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from trainer.contract import RunSpec
from trainyard.docker.site import OWNER, Containers, DockerSite, Mount, parse_ulimit
from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.directives import wants_gpus

MANAGED, RUN_ID, RANK = "trainyard.managed", "trainyard.run_id", "trainyard.rank"
SPEC_ID, RUN_DIR = "trainyard.spec_id", "trainyard.run_dir"
STOP_S = 30
"""Seconds that ``docker stop`` and a shutdown of the engine leave the trainer by themselves."""
_NVIDIA_ULIMITS = ("memlock=-1", "stack=67108864")
"""What NVIDIA's images ask for at their start: pinned memory, and stacks of 64 MiB."""
_LONGEST_SLUG = 38  # with the rest 63, the longest label of a host name (RFC 1035, 2.3.4)


@dataclass(kw_only=True, slots=True, frozen=True)
class Facts:
    """What is known only at the engine, when a run is started."""

    image_digest: str
    """Digest of the image that will run."""
    user: str
    """``uid:gid``; empty: the image's own."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Creation:
    """One container of a run, complete but for the facts."""

    index: int
    """Its place among the run's containers, from 0; its node rank."""
    name: str
    """Its name, derived from the run: the engine has it at most once."""
    text: str
    """Body of the call that creates it, as JSON."""

    def body(self, facts: Facts) -> dict[str, Any]:
        """Return the body with *facts* filled in."""
        made: dict[str, Any] = json.loads(self.text)
        made["User"] = facts.user
        made["Env"] = sorted([*made["Env"], f"TRAINYARD_IMAGE_DIGEST={facts.image_digest}"])
        return made


def docker_of(site: Site) -> DockerSite:
    """Return the Docker part of *site*, or raise naming the site."""
    if site.docker is None:
        raise ConfigurationError(
            f"site {site.name!r} starts {site.launcher} runs, not containers; choose a Docker site"
        )
    return site.docker


def container_name(paths: RunPaths, rank: int) -> str:
    """Return the name of the run's container whose first rank is *rank*; a valid host name.

    Unlike the run id it also tells installations apart that share an engine.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", paths.run_id.lower()).strip("-")[:_LONGEST_SLUG]
    tag = hashlib.sha256(str(paths.run_dir).encode()).hexdigest()[:10]
    return f"ty-{readable.strip('-')}-{tag}-{rank}"


def check_fits(spec: RunSpec, site: Site) -> None:
    """Raise ``ConfigurationError`` when containers of *site* cannot hold *spec*."""
    docker = docker_of(site)
    if docker.containers is Containers.PER_RANK and spec.nodes != spec.ranks:
        raise ConfigurationError(
            f"nodes = {spec.nodes}, ranks = {spec.ranks}: site {site.name!r} has a container per "
            f"rank, and each is a node; set nodes = {spec.ranks}, or containers = 'one'"
        )
    if spec.nodes > 1 and not docker.names_resolve:
        raise ConfigurationError(
            f"nodes = {spec.nodes}: in network {docker.network!r} of site {site.name!r} containers "
            "do not find each other by name; make one (docker network create trainyard-ranks) and "
            "set docker.network to it"
        )
    if not wants_gpus(spec, site):
        return
    present = len(docker.gpus) or site.gpus_per_node
    if spec.ranks > min(present, site.gpus_per_node):
        raise ConfigurationError(
            f"ranks = {spec.ranks}: site {site.name!r} has {min(present, site.gpus_per_node)} GPUs "
            "and a rank needs one, whatever the container; choose fewer ranks or raise "
            "gpus_per_node and docker.gpus"
        )


def rendezvous(spec: RunSpec, site: Site, paths: RunPaths) -> tuple[str, ...]:
    """Return torchrun's options for how the ranks of a run meet.

    Which node a container is, torchrun takes from PET_NODE_RANK in its environment.
    """
    if spec.nodes == 1:
        return ("--standalone",)
    address = container_name(paths, 0)
    return (
        "--nnodes",
        str(spec.nodes),
        "--master-addr",
        address,
        "--master-port",
        str(docker_of(site).port),
    )


def creations(
    spec: RunSpec, site: Site, paths: RunPaths, env: tuple[tuple[str, str], ...]
) -> tuple[Creation, ...]:
    """Return how each container of the run is made, the first one first."""
    made = []
    for index in range(spec.nodes):
        body = _body(spec, site, paths, env, index)
        name = container_name(paths, index * spec.ranks_per_node)
        made.append(Creation(index=index, name=name, text=json.dumps(body, sort_keys=True)))
    return tuple(made)


def _body(
    spec: RunSpec, site: Site, paths: RunPaths, env: tuple[tuple[str, str], ...], index: int
) -> dict[str, Any]:
    docker, rank = docker_of(site), index * spec.ranks_per_node
    # An arbitrary uid has no home and no name in the image; torch asks for both.
    values = {"HOME": "/tmp", "TMPDIR": "/tmp", "USER": "trainyard"} | dict(env)  # noqa: S108
    if spec.nodes > 1:
        values["PET_NODE_RANK"] = str(index)
    body: dict[str, Any] = {
        "Image": docker.image,
        "Entrypoint": ["/bin/bash", str(paths.script), str(index)],
        "Cmd": [],
        "WorkingDir": str(paths.run_dir),
        "Env": [f"{name}={value}" for name, value in sorted(values.items())],
        "Labels": {
            MANAGED: "true",
            RUN_ID: paths.run_id,
            RANK: str(rank),
            SPEC_ID: spec.spec_id,
            RUN_DIR: str(paths.run_dir),
        },
        "StopTimeout": STOP_S,
        "HostConfig": _host(spec, site, paths, index),
    }
    if docker.network == "none":
        # Ranks of one container meet under its host name, and only this one resolves there.
        body["Hostname"] = "localhost"
    elif docker.network != "host" and not docker.network.startswith("container:"):
        # Whoever shares a network also shares its name; the engine refuses another one.
        body["Hostname"] = container_name(paths, rank)
    return body


def _host(spec: RunSpec, site: Site, paths: RunPaths, index: int) -> dict[str, Any]:
    docker, gpus = docker_of(site), wants_gpus(spec, site)
    limits = docker.ulimits or (_NVIDIA_ULIMITS if gpus else ())
    host: dict[str, Any] = {
        "Mounts": [_mount(mount) for mount in mounts(spec, site, paths)],
        "NetworkMode": docker.network,
        "Init": True,
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={docker.tmp_bytes}"},  # noqa: S108
        "ShmSize": docker.shm_bytes,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": docker.pids,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(docker.log_bytes), "max-file": "3"},
        },
    }
    if docker.memory_bytes:
        # Equal values leave no swap: a run that swaps measures the disk.
        host |= {"Memory": docker.memory_bytes, "MemorySwap": docker.memory_bytes}
    if docker.cpus:
        host["NanoCpus"] = round(docker.cpus * 1e9)
    if docker.cpuset:
        host["CpusetCpus"] = docker.cpuset
    if limits:
        host["Ulimits"] = [_ulimit(text) for text in limits]
    if gpus:
        host["DeviceRequests"] = [_devices(spec, docker, index)]
    return host


def mounts(spec: RunSpec, site: Site, paths: RunPaths) -> tuple[Mount, ...]:
    """Return what the run's containers see: its own folder, its data to read, the site's mounts."""
    docker = docker_of(site)
    wanted = [Mount(source=str(paths.run_dir), target=str(paths.run_dir))]
    if spec.dataset_digest:
        wanted.append(Mount(source=site.data_dir, target=site.data_dir, read_only=True))
        if site.cache_dir:
            wanted.append(Mount(source=site.cache_dir, target=site.cache_dir))
    given = docker.all_mounts
    needed = [one for one in wanted if not any(mount.covers(one.target) for mount in given)]
    return (*needed, *given)


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "volume" if mount.is_volume else "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }


def _ulimit(text: str) -> dict[str, Any]:
    name, soft, hard = parse_ulimit(text)
    return {"Name": name, "Soft": soft, "Hard": hard}


def _devices(spec: RunSpec, docker: DockerSite, index: int) -> dict[str, Any]:
    known = docker.gpus or tuple(str(number) for number in range(spec.ranks))
    first = index * spec.ranks_per_node
    return {
        "Driver": "nvidia",
        "DeviceIDs": list(known[first : first + spec.ranks_per_node]),
        "Capabilities": [["gpu", "compute", "utility"]],
    }


def user_of(docker: DockerSite, uid: int, gid: int) -> str:
    """Return the user of containers for a run folder that *uid* and *gid* own."""
    return f"{uid}:{gid}" if docker.user == OWNER else docker.user
