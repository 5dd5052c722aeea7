"""``backend_of``: a site's backend with whatever its Airflow connection says."""

from __future__ import annotations

from trainyard.backends import Backend, open_backend
from trainyard.hooks.slurm import access_of
from trainyard.sites import Site


def backend_of(site: Site) -> Backend:
    """Return the backend that runs things on *site*, Airflow connection included."""
    if site.docker is not None:
        from trainyard.hooks.docker import engine_of

        return open_backend(site, engine=engine_of(site))
    return open_backend(site, access_of(site) if site.slurm is not None else None)
