"""Spreading a plan's ranks over the nodes of a site. Pure."""

from __future__ import annotations

from dataclasses import replace

from trainer.contract import RunSpec
from trainyard.docker.site import Containers
from trainyard.sites import Launcher, Site
from trainyard.slurm.directives import cpus_per_node, wants_gpus
from trainyard.suites import StudyPlan


def spread(plan: StudyPlan, site: Site) -> StudyPlan:
    """Return *plan* with every run on as few equal nodes of *site* as hold it.

    A suite says how many ranks; how many fit on a node, the site. A container per rank is a node
    per rank. Other launchers have one host.
    """
    if site.docker is not None and site.docker.containers is Containers.PER_RANK:
        apart = tuple(
            replace(run, spec=replace(run.spec, nodes=run.spec.ranks)) for run in plan.runs
        )
        return replace(plan, runs=apart)
    if site.launcher is not Launcher.SLURM:
        return plan
    runs = tuple(replace(run, spec=on_nodes(run.spec, site)) for run in plan.runs)
    return replace(plan, runs=runs)


def on_nodes(spec: RunSpec, site: Site) -> RunSpec:
    """Return *spec* on the fewest nodes that hold its ranks, or as it was where none do."""
    for nodes in range(spec.nodes, spec.ranks + 1):
        if spec.ranks % nodes == 0:
            placed = replace(spec, nodes=nodes)
            if _fits(placed, site):
                return placed
    return spec  # launch() refuses it, naming the numbers


def _fits(spec: RunSpec, site: Site) -> bool:
    gpus = not wants_gpus(spec, site) or spec.ranks_per_node <= site.gpus_per_node
    return gpus and cpus_per_node(spec) <= site.cores
