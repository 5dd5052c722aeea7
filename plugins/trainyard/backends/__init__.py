"""Backends: what starts, watches and ends the process behind a run. One per launcher.

A backend decides nothing about the work: it takes a finished ``Launch`` and reports evidence. It
never interprets results; ``trainyard.outcome`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.backends.base import Backend, JobUsage, Observation, State
from trainyard.sites import Launcher, Site

if TYPE_CHECKING:
    from trainyard.slurm.access import Access

__all__ = ["Backend", "JobUsage", "Observation", "State", "open_backend"]


def open_backend(site: Site, access: Access | None = None) -> Backend:
    """Return the backend that runs things on *site*; imports only the one that is needed.

    *access* is the way to a Slurm site's cluster, where an Airflow connection says it; without,
    the site file must say it all. Raises ``ConfigurationError`` when it does not.
    """
    if site.launcher is Launcher.PROCESS:
        from trainyard.backends.process import ProcessBackend

        return ProcessBackend()
    from trainyard.backends.slurm import SlurmBackend
    from trainyard.slurm.access import local_access
    from trainyard.slurm.directives import slurm_of

    return SlurmBackend(site, access or local_access(slurm_of(site)))
