"""Lanes: the tasks through which runs go, one per kind of site and priority tier."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.errors import ConfigurationError
from trainyard.settings import load_settings
from trainyard.sites import Site, load_sites

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

CPU_POOL, GPU_POOL, SLURM_POOL = "trainyard_cpu", "trainyard_gpu", "trainyard_slurm"
_WEIGHT = 10


@dataclass(kw_only=True, slots=True, frozen=True)
class Lane:
    """One task through which runs of some sites go, in its pool and at its priority."""

    task: str
    """Task id."""
    pool: str
    """Airflow pool."""
    weight: int = _WEIGHT
    """Airflow priority within the pool; above 1, so that measured runs go first."""


def lane_of(site: Site, tier: str) -> str:
    """Return the name of the lane for runs of *tier* on *site*; raises for an unknown tier."""
    name = site.tier(tier).name
    return f"{site.pool}/{name}" if name else site.pool


def known_sites() -> tuple[str, dict[str, Site]]:
    """Return the preselected site and all sites; no sites where no settings file is named yet.

    A DAG must be importable before anything is set up; its tasks then fail with the reason.
    """
    try:
        settings = load_settings()
        sites = load_sites(Path(settings.sites_file))
    except ConfigurationError:
        return "local", {}
    chosen = settings.default_site
    return (chosen if chosen in sites else next(iter(sites))), sites


def lanes() -> dict[str, Lane]:
    """Return the lanes for the sites there are, by name: cores, GPUs, clusters and their tiers."""
    _, sites = known_sites()
    pools = {site.pool for site in sites.values()} or {CPU_POOL}
    known = {CPU_POOL: "run_on_cpu", GPU_POOL: "run_on_gpu", SLURM_POOL: "run_on_slurm"}
    found = {pool: Lane(task=task, pool=pool) for pool, task in known.items() if pool in pools}
    for site in sites.values():
        for tier in site.slurm.tiers if site.slurm else ():
            task = re.sub(r"[^A-Za-z0-9_-]", "_", f"run_on_slurm_{tier.name}")
            lane = Lane(task=task, pool=tier.pool or site.pool, weight=tier.weight)
            # Several clusters may have a tier of one name: the first one's pool and weight count.
            found.setdefault(f"{site.pool}/{tier.name}", lane)
    return found


def leave_out(context: Context, tasks: Iterable[str]) -> None:
    """Have the scheduler skip *tasks*: those of the lanes that no run of a plan goes through."""
    # Where Airflow looks for what a branching task left out.
    context["ti"].xcom_push("skipmixin_key", {"skipped": sorted(set(tasks))})
