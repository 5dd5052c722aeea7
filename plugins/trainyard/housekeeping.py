"""Both ways between Airflow and a cluster: jobs that no task waits for, tasks without a job.

Free of Airflow: who waits is asked of a function. Changes nothing unless asked to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from trainyard.backends import claims
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.backends.slurm import SlurmBackend
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.cancel import cancel
from trainyard.slurm.evidence import Target
from trainyard.slurm.quarantine import BadNode
from trainyard.slurm.reconcile import Orphan, WaitingTask, reconcile
from trainyard.store import EnvironmentCheck, Verdict

LOG = logging.getLogger(__name__)
Waiting = Callable[[Sequence[TaskIdentity]], Iterable[TaskIdentity]]
"""Returns those of the given tasks that are not over."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Stock:
    """What does not fit together on one site."""

    site: str
    """Name of the site."""
    cluster: str
    """Name of its cluster."""
    orphans: tuple[Orphan, ...] = ()
    """Jobs of ours that can start or run, and that no task waits for."""
    jobless: tuple[WaitingTask, ...] = ()
    """Waiting tasks whose job is in no record."""
    matched: int = 0
    """Tasks and jobs that belong together."""
    bad_nodes: tuple[BadNode, ...] = ()
    """Nodes left out for now."""
    cancelled: tuple[int, ...] = ()
    """Jobs that were cancelled on request and are gone or going."""
    left: str = ""
    """Why cancelling is not complete; empty when it is, or was not asked for."""


def take_stock(site: Site, backend: SlurmBackend, waiting: Waiting) -> Stock:
    """Compare the jobs of *site* with the tasks that wait for them; change nothing.

    Raises ``SlurmError`` when the cluster does not answer: then nothing can be said.
    """
    root = Path(site.runs_dir)
    found = reconcile(
        backend.client, backend.profile, site.runs_dir, lambda: _waiting(root, backend, waiting)
    )
    return Stock(
        site=site.name,
        cluster=backend.profile.cluster,
        orphans=found.orphans,
        # A task whose submission is under way has no job yet.
        jobless=tuple(task for task in found.jobless if _is_submitted(task, backend)),
        matched=found.matched,
        bad_nodes=backend.quarantine.active(),
    )


def _waiting(root: Path, backend: SlurmBackend, waiting: Waiting) -> list[WaitingTask]:
    known: dict[TaskIdentity, tuple[RunPaths, Claim]] = {
        claim.task: (paths, claim) for paths, claim in claims.every(root)
    }
    tasks = []
    for task in waiting(list(known)):
        paths, _ = known[task]
        job = backend.job(paths)
        tasks.append(
            WaitingTask(
                name=job.attempt.key if job.attempt else job.key.name,
                task=f"{task.dag_id}/{task.dag_run_id}/{task.task_id}/{task.map_index}",
                run_dir=str(paths.run_dir),
            )
        )
    return tasks


def _is_submitted(task: WaitingTask, backend: SlurmBackend) -> bool:
    folder = Path(task.run_dir)
    return backend.job(RunPaths(root=folder.parent, run_id=folder.name)).submitted


def clean_up(stock: Stock, backend: SlurmBackend) -> Stock:
    """Cancel the orphans of *stock* with one command and return what became of them."""
    if not stock.orphans:
        return stock
    report = cancel(backend.client, targets(stock))
    gone = tuple(target.job_id for target in (*report.gone, *report.ending))
    alive = ", ".join(target.label for target in report.alive)
    left = report.error or (f"jobs {alive} still wait or run" if alive else "")
    return replace(stock, cancelled=gone, left=left)


def targets(stock: Stock) -> tuple[Target, ...]:
    """Return the orphans of *stock* as what ``cancel`` takes."""
    return tuple(
        Target(cluster=stock.cluster, job_id=job.job_id, name=job.name, submitted=job.submitted)
        for job in stock.orphans
    )


def table(stock: Stock) -> str:
    """Return *stock* as text: one line for each finding, and what to do about each kind."""
    lines = [f"Site {stock.site}, cluster {stock.cluster}: {stock.matched} tasks have their job."]
    lines += _section(
        "Jobs without a task",
        [_orphan(job, stock) for job in stock.orphans],
        "start reconcile_slurm with clean_up to cancel them",
        done=bool(stock.cancelled),
    )
    lines += _section(
        "Tasks without a job",
        [f"{task.task}  (job name {task.name})" for task in stock.jobless],
        "their triggers settle them within half an hour; clear a task to submit its run again",
    )
    lines += _section(
        "Nodes left out",
        [f"{bad.node}  until {_moment(bad.until)}: {bad.reason}" for bad in stock.bad_nodes],
        "nothing, they are used again by themselves",
    )
    return "\n".join([*lines, *([f"Not complete: {stock.left}"] if stock.left else [])])


def _section(title: str, rows: list[str], fix: str, *, done: bool = False) -> list[str]:
    if not rows:
        return [f"{title}: none"]
    return [
        f"{title}: {len(rows)}",
        *(f"  {row}" for row in rows),
        *([] if done else [f"  -> {fix}"]),
    ]


def _orphan(job: Orphan, stock: Stock) -> str:
    fate = "cancelled" if job.job_id in stock.cancelled else job.state
    surplus = "  (a second job of a task that waits for another)" if job.duplicate else ""
    return f"{job.job_id}  {fate}  submitted {_moment(job.submitted)}  {job.name}{surplus}"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def checks(stock: Stock, *, dag_run_id: str = "") -> list[EnvironmentCheck]:
    """Return *stock* as rows for the results database, beside the site's verifications."""
    moment = datetime.now(UTC).isoformat()
    orphans, jobless = len(stock.orphans) - len(stock.cancelled), len(stock.jobless)
    found = {
        "jobs without a task": (f"{orphans} of {len(stock.orphans)} left", orphans),
        "tasks without a job": (f"{jobless}", jobless),
        "nodes left out": (f"{len(stock.bad_nodes)}", len(stock.bad_nodes)),
    }
    return [
        EnvironmentCheck(
            site=f"{stock.site} (reconciliation)",
            checked_at=moment,
            name=name,
            measured=measured,
            requirement="0",
            verdict=Verdict.WARNING if count else Verdict.PASSED,
            detail=table(stock),
            dag_run_id=dag_run_id,
        )
        for name, (measured, count) in found.items()
    ]
