"""How many jobs of ours wait and run in a Slurm cluster's queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from trainyard.exporter.catalogue import Sheet
from trainyard.exporter.sources import Source
from trainyard.sites import Site
from trainyard.slurm.access import local_access
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.directives import slurm_of
from trainyard.slurm.identity import is_ours
from trainyard.slurm.site import Reach
from trainyard.slurm.states import Phase

_STATES = {Phase.WAITING: "pending", Phase.RUNNING: "running", Phase.ENDING: "ending"}


class SlurmQueue:
    """Asks one cluster's controller: one squeue for each reading."""

    def __init__(
        self,
        site: Site,
        client: SlurmClient,
        *,
        interval_s: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch the jobs that *site* submits, through *client*."""
        self.name = f"slurm:{site.name}"
        self.interval_s = interval_s
        self._site = site
        self._client = client
        self._clock = clock

    def read(self, sheet: Sheet) -> None:
        """Count our jobs by state. Raises ``SlurmError`` when the controller does not answer."""
        counts = dict.fromkeys(_STATES.values(), 0)
        oldest = None
        for job in self._client.squeue(all_states=False):
            state = _STATES.get(job.rule.phase)
            if state is None or not is_ours(job.name, self._site.runs_dir):
                continue
            counts[state] += 1
            if state == "pending":
                oldest = min(job.submitted, job.submitted if oldest is None else oldest)
        for state, count in counts.items():
            sheet.put("trainyard_queue_jobs", count, self._site.name, state)
        waited = 0.0 if oldest is None else max(0.0, self._clock() - oldest)
        sheet.put("trainyard_queue_oldest_pending_seconds", waited, self._site.name)


def queues(sites: Iterable[Site], left_out: Sheet) -> list[Source]:
    """Return a source for each cluster that can be asked from here; note the others on *left_out*.

    A site whose cluster is reached through an Airflow connection cannot be: the exporter has no
    part in Airflow's secrets.
    """
    found: list[Source] = []
    for site in sites:
        if site.slurm is None:
            continue
        if site.slurm.connection or site.slurm.reach is Reach.SSH:
            why = "reached through an Airflow connection"
            left_out.put("trainyard_source_left_out", 1, f"slurm:{site.name}", why)
            continue
        found.append(SlurmQueue(site, local_access(slurm_of(site)).client()))
    return found
