"""Makes the pools that training tasks wait in, when the scheduler starts and somebody forgot them.

A task in a pool that does not exist stays scheduled for ever, with one line in the scheduler's log
and no other sign. No task can look for pools: tasks have no view of Airflow's database.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

POOLS = {
    "trainyard_cpu": "Measured runs on this host's cores, one at a time",
    "trainyard_gpu": "Measured runs on this host's GPUs, one at a time",
}


@hookimpl
def on_starting(component: Any) -> None:
    """Make missing pools when *component* is a scheduler; every task process asks here, too."""
    if getattr(component, "job_type", "") != "SchedulerJob":
        return
    try:
        made = make_missing()
    except Exception:  # whatever it is, the scheduler must start
        log.exception("The pools %s could not be checked", ", ".join(POOLS))
    else:
        for name in made:
            log.info("Made the missing pool %s with one slot that deferred tasks hold", name)


def make_missing() -> list[str]:
    """Make each missing pool with one slot and return their names; others stay as they are.

    Deferred tasks count: a run that trains must hold its slot, or two would measure each other.
    """
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    made = []
    with create_session() as session:
        for name, description in POOLS.items():
            if Pool.get_pool(name, session=session) is None:
                Pool.create_or_update_pool(name, 1, description, True, session=session)
                made.append(name)
    return made
