"""Finding a job by its key, wherever it may have left a trace."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from trainyard.slurm.breadcrumbs import read_breadcrumb
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.records import JobRecord

LOG = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, frozen=True)
class Found:
    """A job with the key."""

    job_id: int
    """Id of the job, of the array, or of the first het component."""
    submitted: int
    """Submit time on the controller's clock; 0 when only the breadcrumb knows the job."""
    source: str
    """Who knew it."""


def find_jobs(
    client: SlurmClient, profile: ClusterProfile, name: str, breadcrumb: Path
) -> list[Found]:
    """Return every job called *name*, waiting, running or over, each once.

    Raises ``SlurmError`` when the controller does not answer: "not found" would be a guess.
    Accounting that does not answer is done without: what started left its breadcrumb, and what
    has not started is in the controller.
    """
    found: dict[int, Found] = {}
    _collect(found, client.squeue(name=name))
    if not found and profile.plan.use_sacct:
        try:
            _collect(found, client.sacct(name=name))
        except SlurmError as error:
            LOG.warning("%s: searching without accounting: %s", name, error)
    crumb = read_breadcrumb(breadcrumb)
    if crumb and crumb.name == name and crumb.job_id not in found:
        found[crumb.job_id] = Found(job_id=crumb.job_id, submitted=0, source="breadcrumb")
    return list(found.values())


def _collect(found: dict[int, Found], records: list[JobRecord]) -> None:
    for record in records:
        job_id = record.job_id.base
        known = found.get(job_id)
        # The first submit time names the job: a requeue sets a later one under the same id.
        if known is None or record.submitted < known.submitted:
            found[job_id] = Found(
                job_id=job_id, submitted=record.submitted, source=record.source.value
            )
