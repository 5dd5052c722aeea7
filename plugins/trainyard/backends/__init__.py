"""Backends: what starts, watches and ends the process behind a run. One per launcher.

A backend decides nothing about the work: it takes a finished ``Launch`` and reports evidence. It
never interprets results; ``trainyard.outcome`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.backends.base import Backend, JobUsage, Observation, State
from trainyard.sites import Launcher, Site

if TYPE_CHECKING:
    from trainyard.docker.engine import Engine
    from trainyard.slurm.access import Access

__all__ = ["Backend", "JobUsage", "Observation", "State", "open_backend"]


def open_backend(site: Site, access: Access | None = None, engine: Engine | None = None) -> Backend:
    """Return the backend that runs things on *site*; imports only the one that is needed.

    *access* is the way to a Slurm site's cluster and *engine* that of a Docker site, where an
    Airflow connection says it; without, site file and environment must say it all. Raises
    ``ConfigurationError`` when they do not.
    """
    if site.launcher is Launcher.PROCESS:
        from trainyard.backends.process import ProcessBackend

        return ProcessBackend()
    if site.docker is not None:
        from trainyard.backends.docker import DockerBackend
        from trainyard.docker.engine import local_engine

        return DockerBackend(site, engine or local_engine(site.docker))
    from trainyard.backends.slurm import SlurmBackend
    from trainyard.slurm.access import local_access
    from trainyard.slurm.directives import slurm_of

    return SlurmBackend(site, access or local_access(slurm_of(site)))
