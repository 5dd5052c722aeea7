"""Configuration text of a throw-away Slurm cluster, as pure functions of one record.

Everything the daemons read or write lies under ``ClusterConfig.state``: nothing of a Slurm that
the machine may already run is read or changed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from trainyard.errors import ConfigurationError

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_PREEMPT_MODES = ("OFF", "REQUEUE", "CANCEL")
_PREEMPT_BY = ("partition_prio", "qos")
# A Unix socket's path must fit sun_path, 108 bytes; "munge/socket.lock" is the longest under it.
_LONGEST_STATE = 108 - len("/munge/socket.lock") - 1


@dataclass(kw_only=True, slots=True, frozen=True)
class Partition:
    """One partition over all nodes, or over those named."""

    name: str
    """Name given to ``--partition``."""
    priority_tier: int = 1
    """Jobs of a higher tier start first and, with preemption on, displace lower ones."""
    preempt_mode: str = ""
    """OFF, REQUEUE or CANCEL for jobs of this partition; empty: the cluster's mode."""
    nodes: tuple[str, ...] = ()
    """Names of its nodes; empty: all."""
    max_minutes: int = 0
    """Longest time limit; 0: unlimited."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Ports:
    """TCP ports of one cluster on the loopback interface."""

    controller: int
    nodes: tuple[int, ...]
    dbd: int = 0
    database: int = 0


@dataclass(kw_only=True, slots=True, frozen=True)
class ClusterConfig:
    """A whole throw-away cluster: what a test chooses, everything else has one value here."""

    state: Path
    """Folder of everything the cluster reads and writes."""
    nodes: int = 2
    """Number of slurmd, named n1, n2 …"""
    cpus_per_node: int = 4
    """CPUs every node claims; Slurm is told not to compare them with the real machine."""
    memory_mb: int = 4096
    """Memory every node claims, MiB."""
    gpus_per_node: int = 0
    """GPUs every node claims: counted and allocated by Slurm, empty files instead of devices."""
    features: tuple[tuple[str, ...], ...] = ()
    """Features of each node in order, for ``--constraint``; missing entries mean none."""
    partitions: tuple[Partition, ...] = (Partition(name="main"),)
    """Partitions; the first is the default one."""
    preempt_mode: str = "OFF"
    """What happens to a displaced job: OFF (nothing is displaced), REQUEUE or CANCEL."""
    preempt_by: str = "partition_prio"
    """What decides who is displaced: partition_prio, or qos (needs accounting)."""
    min_job_age_s: int = 300
    """Seconds a finished job stays visible to squeue and scontrol (MinJobAge)."""
    kill_wait_s: int = 3
    """Seconds between SIGTERM and SIGKILL when Slurm ends a job."""
    slurmd_timeout_s: int = 300
    """Seconds of silence after which a node is DOWN and its jobs end as NODE_FAIL."""
    message_timeout_s: int = 10
    """Seconds a client waits for the controller."""
    requeue_delay_s: int = 10
    """Seconds a requeued job waits at least; Slurm's default is 121."""
    accounting: bool = False
    """Run slurmdbd with its own MariaDB."""
    sample_s: int = 2
    """Seconds between looks at what a job uses; 0: never. Each look reads all of /proc, per job."""
    job_requeue: bool = True
    """Whether jobs may be requeued unless they say otherwise (JobRequeue)."""
    extra: tuple[str, ...] = ()
    """Further slurm.conf lines, for example FirstJobId=100 or MaxArraySize=10."""
    user: str = "root"
    """User that runs the daemons; one that is not root can only run jobs of its own."""

    def __post_init__(self) -> None:
        """Refuse what Slurm would reject late or misread."""
        if not self.state.is_absolute() or not re.fullmatch(r"[\w./+-]+", str(self.state), re.A):
            raise ConfigurationError(
                f"state = {str(self.state)!r}: slurm.conf cannot hold it; choose an absolute "
                "path of letters, digits and . _ / + -"
            )
        if len(str(self.state)) > _LONGEST_STATE:
            raise ConfigurationError(
                f"state = {str(self.state)!r}: longer than {_LONGEST_STATE} characters, so the "
                "munge socket's path would not fit; choose a shorter folder, for example in /tmp"
            )
        if not 1 <= self.nodes <= 64:  # noqa: PLR2004 - one slurmd each: more is no test cluster
            raise ConfigurationError(f"nodes = {self.nodes}: must be 1 to 64")
        _choice("preempt_mode", self.preempt_mode, _PREEMPT_MODES)
        _choice("preempt_by", self.preempt_by, _PREEMPT_BY)
        if self.preempt_by == "qos" and not self.accounting:
            raise ConfigurationError(
                "preempt_by = 'qos' needs accounting = True: a QOS lives there"
            )
        for word in [p.name for p in self.partitions] + [f for fs in self.features for f in fs]:
            if not _WORD.fullmatch(word):
                raise ConfigurationError(
                    f"{word!r}: a partition or feature is a letter, then letters, digits or _"
                )

    @property
    def name(self) -> str:
        """Cluster name: unique to the state folder, so that no cluster takes another's jobs."""
        return "ty" + hashlib.sha256(str(self.state).encode()).hexdigest()[:8]

    @property
    def node_names(self) -> tuple[str, ...]:
        """n1, n2 …"""
        return tuple(f"n{i + 1}" for i in range(self.nodes))

    @property
    def conf(self) -> Path:
        """slurm.conf: what clients name in SLURM_CONF."""
        return self.state / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """Socket of the cluster's own munged."""
        return self.state / "munge" / "socket"

    @property
    def database(self) -> Path:
        """Folder of MariaDB's files."""
        return self.state / "db"


def _choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{field} = {value!r}; choose from {', '.join(choices)}")


def slurm_conf(config: ClusterConfig, ports: Ports, hostname: str) -> str:
    """Return slurm.conf; *hostname* is the machine that plays every node."""
    state = config.state
    lines = [
        f"ClusterName={config.name}",
        f"SlurmctldHost={hostname}(127.0.0.1)",
        f"SlurmctldPort={ports.controller}",
        f"SlurmUser={config.user}",
        f"SlurmdUser={config.user}",
        "AuthType=auth/munge",
        # A requeued job waits until its old credential has expired: 2 minutes by default.
        f"AuthInfo=socket={config.munge_socket},cred_expire={config.requeue_delay_s}",
        f"StateSaveLocation={state}/spool/ctld",
        f"SlurmdSpoolDir={state}/spool/%n",
        f"SlurmctldPidFile={state}/run/slurmctld.slurm-pid",
        f"SlurmdPidFile={state}/run/slurmd-%n.slurm-pid",
        f"SlurmctldLogFile={state}/log/slurmctld.log",
        f"SlurmdLogFile={state}/log/slurmd-%n.log",
        "SlurmctldDebug=verbose",
        "SlurmdDebug=verbose",
        "MpiDefault=none",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        f"DefMemPerCPU={max(1, config.memory_mb // config.cpus_per_node)}",
        # Nodes share one real machine: their claimed size must not be compared with it.
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "SwitchType=switch/none",
        f"MinJobAge={config.min_job_age_s}",
        f"KillWait={config.kill_wait_s}",
        f"SlurmdTimeout={config.slurmd_timeout_s}",
        f"MessageTimeout={config.message_timeout_s}",
        "SlurmctldTimeout=30",
        "InactiveLimit=0",
        "Waittime=0",
        f"JobRequeue={int(config.job_requeue)}",
        "SchedulerParameters=bf_interval=2,sched_interval=5,nohold_on_prolog_fail",
        "PriorityType=priority/multifactor",
        "PriorityWeightPartition=1000",
        "PriorityWeightQOS=10000",
        "JobAcctGatherType=jobacct_gather/linux",
        f"JobAcctGatherFrequency=task={config.sample_s}",
    ]
    lines += _preemption(config) + _accounting(config, ports) + list(config.extra)
    return "\n".join(lines + _nodes(config, ports, hostname)) + "\n"


def _preemption(config: ClusterConfig) -> list[str]:
    if config.preempt_mode == "OFF":
        return ["PreemptType=preempt/none", "PreemptMode=OFF"]
    return [f"PreemptType=preempt/{config.preempt_by}", f"PreemptMode={config.preempt_mode}"]


def _accounting(config: ClusterConfig, ports: Ports) -> list[str]:
    if not config.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.dbd}",
        f"AccountingStoragePass={config.munge_socket}",
        "AccountingStoreFlags=job_comment",
        "AccountingStorageTRES=gres/gpu",
        "AccountingStorageEnforce=associations,limits,qos",
    ]


def _nodes(config: ClusterConfig, ports: Ports, hostname: str) -> list[str]:
    lines = ["GresTypes=gpu"]
    for index, name in enumerate(config.node_names):
        features = config.features[index] if index < len(config.features) else ()
        optional = f" Features={','.join(features)}" if features else ""
        if config.gpus_per_node:
            optional += f" Gres=gpu:{config.gpus_per_node}"
        lines.append(
            f"NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 "
            f"Port={ports.nodes[index]} CPUs={config.cpus_per_node} "
            f"RealMemory={config.memory_mb} State=UNKNOWN{optional}"
        )
    for index, partition in enumerate(config.partitions):
        lines.append(_partition(config, partition, default=index == 0))
    return lines


def _partition(config: ClusterConfig, partition: Partition, *, default: bool) -> str:
    text = (
        f"PartitionName={partition.name} Nodes={','.join(partition.nodes or config.node_names)} "
        f"Default={'YES' if default else 'NO'} State=UP PriorityTier={partition.priority_tier} "
        f"MaxTime={partition.max_minutes or 'INFINITE'}"
    )
    return text + (f" PreemptMode={partition.preempt_mode}" if partition.preempt_mode else "")


def gres_conf(config: ClusterConfig) -> str:
    """Return gres.conf: every GPU is an empty file, since Slurm counts only what has one."""
    if not config.gpus_per_node:
        return "AutoDetect=off\n"
    files = f"{config.state}/gpu/gpu[0-{config.gpus_per_node - 1}]"
    return f"AutoDetect=off\nNodeName={','.join(config.node_names)} Name=gpu File={files}\n"


def slurmdbd_conf(config: ClusterConfig, ports: Ports, password: str) -> str:
    """Return slurmdbd.conf; slurmdbd insists that the file's mode is 0600."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={config.munge_socket}",
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={ports.dbd}",
        f"SlurmUser={config.user}",
        f"LogFile={config.state}/log/slurmdbd.log",
        f"PidFile={config.state}/run/slurmdbd.slurm-pid",
        "DebugLevel=verbose",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={ports.database}",
        "StorageUser=slurm",
        f"StoragePass={password}",
        "StorageLoc=slurm_acct",
    ]
    return "\n".join(lines) + "\n"
