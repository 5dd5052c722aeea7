"""``SlurmSite``: what a Slurm cluster adds to a ``Site``. Pure; checked at construction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from trainyard.errors import ConfigurationError
from trainyard.tables import known, typed


class Reach(StrEnum):
    """How Slurm's commands are reached: on this host, or on a login node."""

    LOCAL = "local"
    SSH = "ssh"


class Rendezvous(StrEnum):
    """What the first node is called when the others connect to it."""

    HOSTNAME = "hostname"
    """Its name in the node list; right where node names resolve."""
    NODEADDR = "nodeaddr"
    """Its NodeAddr as the controller knows it; right where they do not."""


class GpuOption(StrEnum):
    """The sbatch option that asks for GPUs; sites enable one or the other."""

    GRES = "gres"
    PER_NODE = "gpus-per-node"


@dataclass(kw_only=True, slots=True, frozen=True)
class Tier:
    """What one priority tier changes: production inference > training > experiments."""

    name: str
    """Name the submission gives."""
    qos: str = ""
    """QOS of its jobs; empty: the site's."""
    partition: str = ""
    """Partition of its jobs; empty: the site's."""
    nice: int = 0
    """Added to the job's nice value: higher runs later."""
    pool: str = ""
    """Airflow pool of its tasks; empty: the site's."""
    weight: int = 10
    """Airflow priority of its tasks within the pool: higher starts first."""


@dataclass(kw_only=True, slots=True, frozen=True)
class SlurmSite:
    """One way into one Slurm cluster."""

    partition: str = ""
    """Partition, or several with commas; empty: the cluster's default."""
    account: str = ""
    """Account to charge; empty: the user's default."""
    qos: str = ""
    """Quality of service; empty: the default."""
    constraint: str = ""
    """Features the nodes must have, such as ``a100&nvlink``."""
    gpu_option: GpuOption = GpuOption.GRES
    """How GPUs are asked for."""
    gpu_type: str = ""
    """GPU type, as in ``gpu:TYPE:2``; empty: any."""
    time_limit_min: int = 0
    """Time limit in minutes; 0: the site's run_timeout_s, rounded up."""
    memory_mb: int = 0
    """Memory of each node in MiB; 0: the partition's default."""
    exclusive: bool = False
    """Ask for whole nodes, so that nobody else's load is measured."""
    exclude_nodes: tuple[str, ...] = ()
    """Nodes never to use."""
    modules: tuple[str, ...] = ()
    """Environment modules to load, in order."""
    setup: tuple[str, ...] = ()
    """Further shell lines before the command; a failing one fails the run."""
    rendezvous: Rendezvous = Rendezvous.HOSTNAME
    """How ranks on other nodes find the first one."""
    rendezvous_port: int = 29400
    """First port of the rendezvous."""
    rendezvous_ports: int = 2000
    """Ports from there on, chosen by job id: two jobs that share a node do not meet."""
    grace_s: int = 60
    """Seconds before the time limit at which the wrapper is told by SIGTERM."""
    wait_time_s: int = 300
    """Seconds between the end of a run's first task and that of the others by force (``srun
    --wait``): of a node that came back without its task, Slurm never hears. 0: no limit."""
    requeue: bool = True
    """Whether Slurm may start a job again after a preemption or a lost node."""
    largest_script_bytes: int = 4 * 1024 * 1024
    """Slurm refuses longer scripts (max_script_size in SchedulerParameters)."""
    tiers: tuple[Tier, ...] = ()
    """Priority tiers the site maps to Slurm."""
    cluster: str = ""
    """Cluster name for ``--clusters``; empty: the only one."""
    reach: Reach = Reach.LOCAL
    """How Slurm's commands are reached."""
    connection: str = ""
    """Airflow connection with login node, folder of commands and poll settings."""
    slurm_conf: str = ""
    """SLURM_CONF for the commands; empty: the host's own."""
    queue_limit_s: int = 24 * 3600
    """Seconds a job may wait in the queue, added to the site's run_timeout_s."""
    resubmits: int = 3
    """Times a run is submitted again after a lost node or a preemption that cancels."""

    def __post_init__(self) -> None:
        """Refuse what could not be written into a script or would never start."""
        for name, pattern in _PATTERNS.items():
            _matches(f"slurm.{name}", getattr(self, name), pattern)
        for node in self.exclude_nodes:
            _matches("slurm.exclude_nodes", node, _NODE)
        for tier in self.tiers:
            _matches("slurm.tiers", tier.name, _NAME)
            _matches(f"slurm.tiers.{tier.name}.qos", tier.qos, _NAME)
            _matches(f"slurm.tiers.{tier.name}.partition", tier.partition, _LIST)
            _matches(f"slurm.tiers.{tier.name}.pool", tier.pool, _NAME)
            _bounded(f"slurm.tiers.{tier.name}.weight", tier.weight, 1, _MANY)
        for name in ("modules", "setup"):
            for line in getattr(self, name):
                _one_line(f"slurm.{name}", line)
        for name, least, most in _BOUNDS:
            _bounded(f"slurm.{name}", getattr(self, name), least, most)
        if self.rendezvous_port + self.rendezvous_ports > _LAST_PORT + 1:
            raise ConfigurationError(
                f"slurm.rendezvous_ports = {self.rendezvous_ports} from port "
                f"{self.rendezvous_port} goes beyond {_LAST_PORT}; choose fewer or a lower port"
            )

    def tier(self, name: str) -> Tier:
        """Return the tier called *name*; the empty name changes nothing."""
        if not name:
            return Tier(name="")
        for tier in self.tiers:
            if tier.name == name:
                return tier
        choices = ", ".join(t.name for t in self.tiers) or "none: the site file defines no tiers"
        raise ConfigurationError(f"tier = {name!r} is unknown on this site; choose from {choices}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")
_LIST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@,-]*")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_.=*&|,:()\[\]-]+")
_PATTERNS = {
    "partition": _LIST,
    "account": _NAME,
    "qos": _NAME,
    "constraint": _CONSTRAINT,
    "gpu_type": _NAME,
    "cluster": _NAME,
}
_LAST_PORT = 65535
_MANY = 2**31 - 1
_BOUNDS = (
    ("time_limit_min", 0, 60 * 24 * 365),
    ("memory_mb", 0, _MANY),
    ("rendezvous_port", 1024, _LAST_PORT),
    ("rendezvous_ports", 1, _LAST_PORT),
    ("grace_s", 0, 65535),
    ("wait_time_s", 0, 65535),
    ("largest_script_bytes", 1024, _MANY),
    ("queue_limit_s", 1, _MANY),
    ("resubmits", 0, 100),
)


def _matches(field: str, value: str, pattern: re.Pattern[str]) -> None:
    if value and not pattern.fullmatch(value):
        raise ConfigurationError(
            f"{field} = {value!r}: Slurm names are made of letters, digits and _ . - and do not "
            f"begin with a dash ({pattern.pattern})"
        )


def _one_line(field: str, value: str) -> None:
    if any(ord(character) < ord(" ") for character in value):
        raise ConfigurationError(
            f"{field} = {value!r}: must be one line without control characters; give several "
            "entries for several lines"
        )


def _bounded(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{field} = {value!r}: must be {least} to {most}")


_MOVED = ("image", "binds")


def parse_slurm(table: object, where: str) -> SlurmSite:
    """Return the record of a ``[site.slurm]`` table; *where* names it in errors."""
    if isinstance(table, Mapping) and (moved := [name for name in _MOVED if name in table]):
        other = f"{where.removesuffix('.slurm')}.apptainer"
        raise ConfigurationError(
            f"{where}.{moved[0]} is no field any more: containers work with every launcher; move "
            f"it to {other}.{moved[0]}, in the table of that name"
        )
    defaults = {field.name: field.default for field in fields(SlurmSite)}
    values = known(table, defaults, where)
    if "tiers" in values:
        values["tiers"] = _tiers(values["tiers"], f"{where}.tiers")
    made = {name: typed(v, defaults[name], f"{where}.{name}") for name, v in values.items()}
    return SlurmSite(**made)


def _tiers(table: object, where: str) -> tuple[Tier, ...]:
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{where} must be a table with one table per tier")
    allowed = {field.name for field in fields(Tier)} - {"name"}
    tiers = []
    for name, tier in table.items():
        values = known(tier, allowed, f"{where}.{name}")
        kinds = {"nice": 0, "weight": 0}
        made = {k: typed(v, kinds.get(k, ""), f"{where}.{name}.{k}") for k, v in values.items()}
        tiers.append(Tier(name=name, **made))
    return tuple(tiers)
