"""What the jobs of a run used: accounting's word for each attempt, else the wrapper's note.

Accounting lags: Slurm's controller hands a short job to slurmdbd seconds after the job is over, and
later still when slurmdbd was away. A record that came too late must not cost the attempt its row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from trainyard.backends.base import JobUsage
from trainyard.slurm.records import Accounting
from trainyard.slurm.states import STATES, Phase

PAUSES_S = (1.0, 2.0, 4.0)
"""Waits for accounting that lags; slurmctld looks every 5 s for jobs that the database lacks."""

Ask = Callable[[Collection[int]], Sequence[Accounting]]


def usage_of(
    noted: Sequence[JobUsage],
    jobs: Collection[int],
    *,
    ask: Ask,
    cluster: str,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[JobUsage, ...]:
    """Return one record for each attempt of *jobs*, oldest first; all of them are over.

    Args:
        noted: The wrapper's notes, oldest first, jobs unknown to it missing.
        jobs: Ids of the run's jobs.
        ask: Accounting's rows of these jobs, steps joined; raises ``SlurmError``.
        cluster: Name for the records.
        sleep: For tests with simulated time.
    """
    rows = _rows(ask, jobs)
    for pause in PAUSES_S:
        if all(_complete(rows[job], _of(noted, job)) for job in jobs):
            break
        sleep(pause)
        rows = _rows(ask, jobs)
    found = [use for job in sorted(jobs) for use in _merged(rows[job], _of(noted, job), cluster)]
    return tuple(replace(use, attempt=place) for place, use in enumerate(found))


def _rows(ask: Ask, jobs: Collection[int]) -> dict[int, list[Accounting]]:
    found: dict[int, list[Accounting]] = {job: [] for job in jobs}
    for row in sorted(ask(jobs), key=lambda row: row.submitted):
        found[row.job_id.base].append(row)
    return found


def _of(noted: Sequence[JobUsage], job: int) -> list[JobUsage]:
    return [use for use in noted if use.job_id == job]


def _complete(rows: Sequence[Accounting], noted: Sequence[JobUsage]) -> bool:
    return bool(rows) and len(rows) >= len(noted) and _ended(rows[-1])


def _ended(row: Accounting) -> bool:
    rule = STATES.get(row.state)
    return rule is not None and rule.phase is Phase.ENDED


def _merged(
    rows: Sequence[Accounting], noted: Sequence[JobUsage], cluster: str
) -> Iterator[JobUsage]:
    told = [row for place, row in enumerate(rows) if place < len(rows) - 1 or _ended(row)]
    yield from (_accounted(row, cluster) for row in told)
    missing = noted[len(told) :]
    yield from missing
    if not missing and len(told) < len(rows):
        yield _accounted(rows[-1], cluster)  # stale, and nobody else knows


def _accounted(row: Accounting, cluster: str) -> JobUsage:
    return JobUsage(
        cluster=cluster,
        job_id=row.job_id.base,
        attempt=0,
        state=row.state,
        node_list=row.nodes,
        source="sacct",
        elapsed_s=row.elapsed_s,
        cpu_s=row.cpu_s,
        cpu_used_s=row.cpu_used_s,
        gpu_s=row.gpu_s,
        max_rss_bytes=row.max_rss_bytes,
        energy_j=row.energy_j,
    )
