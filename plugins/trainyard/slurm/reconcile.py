"""Both ways: jobs of ours that no task waits for, and tasks whose job is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainyard.paths import RunPaths
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import is_ours
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.records import JobRecord
from trainyard.slurm.search import Found, find_jobs
from trainyard.slurm.states import Phase


@dataclass(kw_only=True, slots=True, frozen=True)
class WaitingTask:
    """A task that waits for a job."""

    name: str
    """Job name: the key."""
    task: str
    """The task, as a person finds it, such as ``dag/run/task/3``."""
    run_dir: str = ""
    """Run folder, whose breadcrumb may still know the job; empty: none."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Orphan:
    """A job of ours that can still start or runs, and that no task waits for."""

    job_id: int
    """Id of the job, of the array, or of the first het component."""
    name: str
    """Job name."""
    state: str
    """Its state."""
    submitted: int
    """Submit time on the controller's clock."""
    duplicate: bool = False
    """A task waits for an earlier job with the same name; this one is a surplus."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Reconciliation:
    """What does not fit together."""

    orphans: tuple[Orphan, ...]
    """Jobs without a task, the oldest first."""
    jobless: tuple[WaitingTask, ...]
    """Tasks whose job is in no record."""
    matched: int
    """Tasks and jobs that belong together."""

    def targets(self, cluster: str) -> tuple[Target, ...]:
        """Return the orphans as targets for ``cancel``."""
        return tuple(
            Target(cluster=cluster, job_id=one.job_id, name=one.name, submitted=one.submitted)
            for one in self.orphans
        )


def reconcile(
    client: SlurmClient,
    profile: ClusterProfile,
    namespace: str,
    tasks: Callable[[], Iterable[WaitingTask]],
) -> Reconciliation:
    """Compare the jobs of *namespace* with the *tasks* that wait, and change nothing.

    *tasks* is called before and after Slurm is asked: a job submitted, or a task that ended, in
    between is no finding. A job counts as gone only when a search by its name, accounting and
    breadcrumb included, finds nothing either. Raises ``SlurmError`` when the controller does not
    answer.
    """
    before = {task.name: task for task in tasks()}
    ours = [record for record in client.squeue() if is_ours(record.name, namespace)]
    after = {task.name: task for task in tasks()}
    steady = {name: task for name, task in after.items() if name in before}
    found = {record.name for record in ours}
    jobless = [
        task
        for name, task in sorted(steady.items())
        if name not in found and not _search(client, profile, task)
    ]
    return Reconciliation(
        orphans=tuple(_orphans(ours, before.keys() | after.keys())),
        jobless=tuple(jobless),
        matched=len(steady) - len(jobless),
    )


def _search(client: SlurmClient, profile: ClusterProfile, task: WaitingTask) -> list[Found]:
    folder = Path(task.run_dir or "/nonexistent/run")
    paths = RunPaths(root=folder.parent, run_id=folder.name)
    return find_jobs(client, profile, task.name, paths.job)


def _orphans(ours: Sequence[JobRecord], waited_for: Iterable[str]) -> list[Orphan]:
    wanted = set(waited_for)
    first = _first_jobs(ours)
    alive: dict[int, JobRecord] = {}
    for record in ours:
        if record.rule.phase in {Phase.WAITING, Phase.RUNNING}:
            alive.setdefault(record.job_id.base, record)
    found = [
        Orphan(
            job_id=job_id,
            name=record.name,
            state=record.state,
            submitted=record.submitted,
            duplicate=record.name in wanted,
        )
        for job_id, record in alive.items()
        if record.name not in wanted or first[record.name] != job_id
    ]
    return sorted(found, key=lambda one: (one.submitted, one.job_id))


def _first_jobs(ours: Sequence[JobRecord]) -> Mapping[str, int]:
    """Return the earliest job of each name: the one that submitting keeps."""
    earliest: dict[str, tuple[int, int]] = {}
    for record in ours:
        key = (record.submitted, record.job_id.base)
        earliest[record.name] = min(earliest.get(record.name, key), key)
    return {name: job_id for name, (_, job_id) in earliest.items()}
