"""What kind of cluster this is: asked once at first contact, then everything is planned on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from trainyard.errors import ConfigurationError
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.parse import SACCT_FIELDS
from trainyard.slurm.records import JobRecord, Partition

OLDEST = (20, 11)
_UNPLANNED_MESSAGE_TIMEOUT_S = 10


@dataclass(kw_only=True, slots=True, frozen=True)
class QueryPlan:
    """Which sources decide on this cluster, chosen by the probe."""

    use_sacct: bool
    """Whether accounting is asked about jobs the controller no longer remembers."""
    why: tuple[str, ...] = ()
    """What the choice rests on, one line each, for the log."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ClusterProfile:
    """What the probe found."""

    cluster: str
    """Cluster name."""
    version: tuple[int, ...]
    """Slurm version, such as (22, 5, 8)."""
    user: str
    """Whom our jobs belong to."""
    min_job_age_s: int
    """Seconds for which the controller remembers a job that ended."""
    preempt_type: str = ""
    """PreemptType, such as ``preempt/partition_prio``."""
    preempt_mode: str = "OFF"
    """Cluster-wide PreemptMode, such as ``REQUEUE`` or ``GANG,SUSPEND``."""
    job_requeue: bool = True
    """Whether jobs may be requeued unless they say otherwise (JobRequeue)."""
    accounting: bool = False
    """Whether the cluster stores accounting in slurmdbd."""
    accounting_answers: bool = False
    """Whether sacct answered when probed; it may come and go."""
    max_array_size: int = 1001
    """One more than the largest array index."""
    message_timeout_s: int = _UNPLANNED_MESSAGE_TIMEOUT_S
    """Seconds after which Slurm's commands give up on the controller."""
    partitions: tuple[Partition, ...] = ()
    """All partitions."""
    qos: tuple[str, ...] = ()
    """Names of all QOS; empty without accounting."""
    plan: QueryPlan = field(default_factory=lambda: QueryPlan(use_sacct=False))
    """Which sources decide."""

    def preempted_comes_back(self, record: JobRecord) -> bool:
        """Return whether Slurm itself runs this preempted job again.

        With PreemptMode=CANCEL nothing ever requeues: waiting is wrong. The partition's mode goes
        before the cluster's; a job submitted with ``--no-requeue`` never comes back.
        """
        if record.requeue is False:
            return False
        mode = self.preempt_mode
        named = record.partition.split(",")
        for partition in self.partitions:
            if partition.name in named and partition.preempt_mode:
                mode = partition.preempt_mode
        return "REQUEUE" in mode.upper() or "SUSPEND" in mode.upper()

    def check_partition(self, name: str) -> None:
        """Raise ``ConfigurationError`` naming the choices when there is no such partition."""
        known = [partition.name for partition in self.partitions]
        if name and name not in known:
            raise ConfigurationError(
                f"partition = {name!r} is none of cluster {self.cluster!r}; choose from "
                f"{', '.join(sorted(known))}"
            )

    def check_qos(self, name: str) -> None:
        """Raise ``ConfigurationError`` naming the choices when there is no such QOS."""
        if name and self.qos and name not in self.qos:
            raise ConfigurationError(
                f"qos = {name!r} is none of cluster {self.cluster!r}; choose from "
                f"{', '.join(sorted(self.qos))}"
            )


def probe(client: SlurmClient) -> ClusterProfile:
    """Ask a cluster what it is: at most six commands.

    Raises ``ControllerUnreachableError`` or another ``SlurmError`` when the controller does not
    answer, and ``ConfigurationError`` for a Slurm older than 20.11. Without accounting, or with
    slurmdbd down, the plan does without it and says so.
    """
    config = client.show_config()
    version = version_of(config["SLURM_VERSION"])
    if version[:2] < OLDEST:
        raise ConfigurationError(
            f"Slurm {config['SLURM_VERSION']}: Trainyard needs 20.11 or newer; before it sacct "
            "prints neither delimiters nor duplicates as asked for"
        )
    accounting = config.get("AccountingStorageType", "").endswith("/slurmdbd")
    answers, why = _accounting(client) if accounting else (False, _NO_ACCOUNTING)
    return ClusterProfile(
        cluster=config["ClusterName"],
        version=version,
        user=client.user(),
        min_job_age_s=_seconds(config["MinJobAge"], 300),
        preempt_type=config.get("PreemptType", ""),
        preempt_mode=config.get("PreemptMode", "OFF"),
        job_requeue=config.get("JobRequeue", "1") == "1",
        accounting=accounting,
        accounting_answers=answers,
        max_array_size=_seconds(config.get("MaxArraySize", "1001"), 1001),
        message_timeout_s=_seconds(config.get("MessageTimeout", ""), _UNPLANNED_MESSAGE_TIMEOUT_S),
        partitions=tuple(client.show_partitions()),
        qos=_qos(client) if answers else (),
        plan=QueryPlan(use_sacct=accounting, why=(why, _memory(config["MinJobAge"]))),
    )


_NO_ACCOUNTING = (
    "no slurmdbd: the controller's record and the exit-code file decide; accounting of CPU time, "
    "memory and energy is not available"
)


def _accounting(client: SlurmClient) -> tuple[bool, str]:
    try:
        lacking = set(SACCT_FIELDS) - client.sacct_fields()
        client.sacct(jobs=(1,))
    except SlurmError as error:
        return False, f"slurmdbd is configured and does not answer now: {error}"
    if lacking:
        raise ConfigurationError(
            f"sacct lacks the fields {', '.join(sorted(lacking))}; Trainyard needs Slurm 20.11 or "
            "newer where it runs commands"
        )
    return True, "slurmdbd answers: it is asked about jobs the controller no longer remembers"


def _qos(client: SlurmClient) -> tuple[str, ...]:
    try:
        return client.qos()
    except SlurmError:
        return ()  # knowing the names only improves messages; sacctmgr may be forbidden to users


def _memory(min_job_age: str) -> str:
    return f"the controller remembers jobs that ended for {min_job_age} (MinJobAge)"


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a version such as ``22.05.8`` or ``24.11.5-1``; raises naming it."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not match:
        raise ConfigurationError(f"{text!r} is no Slurm version such as 22.05.8")
    return tuple(int(part) for part in match.groups() if part is not None)


def _seconds(text: str, default: int) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else default
