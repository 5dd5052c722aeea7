"""What Slurm said, in types: one record for each kind of row, whichever command printed it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trainyard.slurm.identity import JobId
from trainyard.slurm.states import STATES, StateRule


class Source(StrEnum):
    """Who answers: squeue and scontrol ask the controller, sacct asks the accounting database."""

    SQUEUE = "squeue"
    SCONTROL = "scontrol"
    SACCT = "sacct"


@dataclass(kw_only=True, slots=True, frozen=True)
class JobRecord:
    """One job, array element or het component, as one command described it."""

    source: Source
    """The command."""
    job_id: JobId
    """The id as printed."""
    name: str
    """Job name: the key, when the job is ours."""
    state: str
    """Long name of the state; a key of ``states.STATES``."""
    reason: str = ""
    """Why it waits or how it ended, in Slurm's word; empty when there is none."""
    submitted: int
    """Submit time on the controller's clock, seconds since 1970."""
    started: int | None = None
    """Start time, or the expected one of a waiting job; None when unknown."""
    ended: int | None = None
    """End time, or the latest one of a running job; None when unknown."""
    nodes: str = ""
    """Node list in Slurm's compact spelling; empty before it has nodes."""
    partition: str = ""
    """Partition, or several with commas while waiting."""
    qos: str = ""
    """Quality of service; empty when the cluster has none."""
    user: str = ""
    """User name."""
    comment: str = ""
    """Job comment; accounting stores it only where the site asked for it."""
    restarts: int | None = None
    """Requeues so far; None where the command does not say."""
    exit_code: int | None = None
    """Exit code of the batch script; None where the command does not say or it has not ended."""
    exit_signal: int | None = None
    """Signal that ended it; None like ``exit_code``."""
    requeue: bool | None = None
    """Whether Slurm may requeue it; None where the command does not say."""
    cancelled_by: int | None = None
    """User id that cancelled it; None where unknown."""

    @property
    def rule(self) -> StateRule:
        """What its state means."""
        return STATES[self.state]


@dataclass(kw_only=True, slots=True, frozen=True)
class Accounting:
    """What a job used, from accounting: the job's own row joined with those of its steps."""

    job_id: JobId
    """The job."""
    name: str
    """Job name."""
    state: str
    """Long name of the state."""
    submitted: int
    """Submit time of this attempt, seconds since 1970."""
    elapsed_s: int | None = None
    """Wall-clock seconds."""
    cpu_s: int | None = None
    """Allocated CPU seconds: CPUs times elapsed."""
    cpu_used_s: float | None = None
    """CPU seconds really used, user and system."""
    gpu_s: int | None = None
    """Allocated GPU seconds: GPUs of AllocTRES times elapsed; None without GPUs."""
    max_rss_bytes: int | None = None
    """Largest resident memory of any task of any step."""
    energy_j: int | None = None
    """Energy; None when the site measures none."""
    nodes: str = ""
    """Node list."""
    tres: str = ""
    """AllocTRES as printed."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Node:
    """One node."""

    name: str
    """Node name."""
    state: str
    """State as sinfo prints it, such as ``idle``, ``drained`` or ``down*``."""
    reason: str = ""
    """Why it is drained or down; empty when there is none."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Partition:
    """One partition."""

    name: str
    """Partition name."""
    default: bool
    """Whether jobs without a partition go here."""
    up: bool
    """Whether it starts jobs."""
    max_time_s: int | None
    """Longest time limit; None for none."""
    max_nodes: int | None
    """Most nodes of one job; None for none."""
    total_nodes: int
    """Nodes it has."""
    preempt_mode: str
    """PreemptMode of the partition, such as ``OFF``, ``REQUEUE`` or ``CANCEL``."""
