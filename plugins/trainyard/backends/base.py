"""The seam every engine fits: ``start`` once, ``observe`` evidence, ``cancel`` for certain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from trainer.contract import RunSpec
from trainyard.launch import Launch
from trainyard.paths import RunPaths


class State(StrEnum):
    """What the evidence says about a run's process; no judgement of its result."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    EXITED = "exited"
    CANCELLED = "cancelled"
    KILLED = "killed"
    """Ended by its cluster for what it did: time limit, memory."""
    LOST = "lost"
    INTERRUPTED = "interrupted"
    """Ended through no fault of its own; ``start`` continues it."""
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """The process has ended for good; ``unknown`` is never a verdict."""
        return self in {State.EXITED, State.CANCELLED, State.KILLED, State.LOST}


@dataclass(kw_only=True, slots=True, frozen=True)
class Observation:
    """One look at a run."""

    state: State
    """What the evidence says."""
    exit_code: int | None = None
    """The command's exit code as its wrapper wrote it; None while there is none."""
    started_at: float | None = None
    """When the run was handed to its launcher, seconds since 1970 UTC."""
    detail: str = ""
    """The evidence in words: a process id, a host, who cancelled and why."""
    taints: tuple[str, ...] = ()
    """Why its measurement must not be compared, such as ``preempted`` or ``requeued``."""


@dataclass(kw_only=True, slots=True, frozen=True)
class JobUsage:
    """What one attempt of one cluster job used; None where nobody measured it."""

    cluster: str
    """Cluster name."""
    job_id: int
    """Job id."""
    attempt: int
    """Place among the attempts of the run, requeues included, from 0."""
    state: str
    """How it ended, in the cluster's word."""
    node_list: str
    """Its nodes, in the cluster's compact spelling."""
    source: str
    """Who measured: ``sacct``, or ``wrapper`` where the cluster keeps no accounting."""
    elapsed_s: float | None = None
    """Wall-clock seconds."""
    cpu_s: float | None = None
    """Allocated CPU seconds."""
    cpu_used_s: float | None = None
    """CPU seconds really used."""
    gpu_s: float | None = None
    """Allocated GPU seconds."""
    max_rss_bytes: int | None = None
    """Largest resident memory of a task."""
    energy_j: float | None = None
    """Energy."""


class Backend(Protocol):
    """Starts, watches and ends runs of one launcher."""

    def start(self, launch: Launch, paths: RunPaths, spec: RunSpec) -> Observation:
        """Start the run unless it was started before, and return what is there now.

        However many callers try, at whatever moment one of them dies, at most one process runs
        per ``paths.run_dir``. The spec is written once; another spec for the same run raises
        ``ConfigurationError``. A machine that cannot start it raises ``UnavailableError``.
        """

    def observe(self, paths: RunPaths) -> Observation:
        """Return the evidence; cheap enough to be called several times a second."""

    def cancel(
        self, paths: RunPaths, *, why: str, grace_s: float = 10.0, asked_by: int | None = None
    ) -> Observation:
        """Ask the run to end, insist after *grace_s* seconds, and return what is left of it.

        Reaches every process the run started. Calling it again, or for a run that is over,
        changes no evidence. *asked_by* names the Airflow try that asks: a try whose run was
        adopted by a later one is refused, and the run goes on.
        """

    def sweep(self, paths: RunPaths) -> int:
        """End processes that outlived their run and return how many there were."""

    def usage(self, paths: RunPaths) -> tuple[JobUsage, ...]:
        """Return what the cluster's jobs of the run used; none where there is no cluster.

        Never raises for a source that does not answer: a run counts without its accounting.
        """
