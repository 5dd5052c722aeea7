"""The throw-away cluster as a site of the local stack: ``make demo SITE=slurm``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.local.slurm.cluster import Cluster
from trainyard.local.slurm.config import ClusterConfig, Partition
from trainyard.local.state import StackPaths, local_site, toml

SITE = "slurm"
"""Name of the site in the trigger forms."""
CONNECTION = "slurm_local"
"""Id of its Airflow connection."""
NODES = 2
PARTITIONS = (
    Partition(name="main"),
    Partition(name="experiments", preempt_mode="REQUEUE"),
    Partition(name="training", priority_tier=5, preempt_mode="REQUEUE"),
    Partition(name="production", priority_tier=10, preempt_mode="OFF"),
)
TIERS = {"production": 30, "training": 20, "experiments": 10}
"""Airflow priority by tier; each is a partition, too, from which a higher one takes nodes."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ClusterSite:
    """A running cluster and how the stack is told of it."""

    cluster: Cluster
    """The cluster."""
    sites: str
    """Its tables of the site file."""
    environment: dict[str, str]
    """Its Airflow connection, as a variable for every component."""


@contextmanager
def cluster_site(root: Path, config: ClusterConfig | None = None) -> Iterator[ClusterSite]:
    """Run a cluster for the stack in *root*; nothing of it is left running afterwards.

    Raises ``UnavailableError`` with the command that installs what is missing, which is asked for
    before anything is started.
    """
    state = _folder(root)
    _stop_leftovers(state)
    cluster = Cluster(config or demo_config(state))
    _need_installed(cluster)
    try:
        cluster.up()
        yield ClusterSite(
            cluster=cluster,
            sites=site_tables(StackPaths(root=root.resolve()), cluster.config),
            environment={f"AIRFLOW_CONN_{CONNECTION.upper()}": connection(cluster.config)},
        )
    finally:
        cluster.destroy()


def demo_config(state: Path) -> ClusterConfig:
    """Return two nodes that share this machine's cores."""
    cores = len(os.sched_getaffinity(0))
    return ClusterConfig(
        state=state,
        nodes=NODES,
        cpus_per_node=max(1, cores // NODES),
        partitions=PARTITIONS,
        preempt_mode="REQUEUE",
        # Looking at /proc every two seconds would load the cores that runs are measured on.
        sample_s=30,
    )


def site_tables(paths: StackPaths, config: ClusterConfig) -> str:
    """Return the site's tables: the local site's folders and Python, this cluster's size."""
    place = {
        **local_site(paths),
        "launcher": "slurm",
        "cores": config.cpus_per_node,
        "gpus_per_node": 0,
        "largest_ranks": config.nodes * config.cpus_per_node,
        "network_interface": "lo",
    }
    # The nodes' names do not resolve: all of them are this machine.
    way = {"connection": CONNECTION, "rendezvous": "nodeaddr", "partition": "main"}
    text = f"[{SITE}]\n{toml(place)}[{SITE}.slurm]\n{toml(way)}"
    known = {partition.name for partition in config.partitions}
    for name, weight in TIERS.items():
        if name in known:
            text += f"[{SITE}.slurm.tiers.{name}]\n{toml({'partition': name, 'weight': weight})}"
    return text


def connection(config: ClusterConfig) -> str:
    """Return the Airflow connection as JSON: this cluster is nobody else's, so ask it often."""
    extra = {
        "transport": "local",
        "slurm_conf": str(config.conf),
        "commands_per_s": 2,
        "min_poll_s": 1,
    }
    return json.dumps({"conn_type": "slurm", "extra": extra})


def _folder(root: Path) -> Path:
    """Return the cluster's folder: in *root*, or in /tmp where that is too long for a socket."""
    wanted = root.resolve() / "slurm"
    try:
        ClusterConfig(state=wanted)
    except ConfigurationError:
        tag = hashlib.sha256(str(wanted).encode()).hexdigest()[:10]
        wanted = Path(f"/tmp/trainyard-slurm-{os.getuid()}-{tag}")  # noqa: S108 - checked below
        wanted.mkdir(mode=0o755, exist_ok=True)
        if wanted.is_symlink() or wanted.stat().st_uid != os.getuid():
            raise ConfigurationError(
                f"{wanted} belongs to somebody else; choose a state folder with a shorter path"
            ) from None
    return wanted


def _stop_leftovers(state: Path) -> None:
    """Stop a cluster that a killed stack left behind in the same folder."""
    if (state / "cluster.json").is_file():
        Cluster.find(state).destroy()


def _need_installed(cluster: Cluster) -> None:
    try:
        cluster.check_installed()
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}\nThe demo on Slurm needs Slurm on this machine. As root: apt-get install "
            "slurm-wlm munge, or: python -m trainyard.local.slurm install. Without it: make demo"
        ) from error
