"""Runs that nobody waits for: found and ended before the next run is measured beside them.

Airflow tells a trigger when its task is killed, but only a trigger that runs. A task that is killed
in the second or two between its deferral and the start of its trigger leaves its run behind, and
so does a deferred task whose DAG run is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.backends import Backend, claims
from trainyard.backends.identity import TaskIdentity
from trainyard.errors import TrainyardError
from trainyard.hooks.backends import backend_of
from trainyard.settings import Settings
from trainyard.sites import Site

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)

OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States of a task that waits for nothing any more."""
_DELETED = "removed"


def identity_of(context: Context) -> TaskIdentity:
    """Return which try of which task instance *context* belongs to."""
    task = context["ti"]
    return TaskIdentity(
        dag_id=task.dag_id,
        dag_run_id=task.run_id,
        task_id=task.task_id,
        map_index=-1 if task.map_index is None else task.map_index,
        try_number=task.try_number,
    )


def state_of(task: TaskIdentity) -> str | None:
    """Return the state of a task instance as Airflow has it: ``removed`` when it was deleted.

    None is the state of a task that was cleared and waits for the scheduler.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id,
        task_ids=[task.task_id],
        run_ids=[task.dag_run_id],
        map_index=task.map_index,
    )
    key = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
    state = states.get(task.dag_run_id, {}).get(key, _DELETED)
    return None if state is None else str(state)


def backend_beside(site: Site) -> Backend | None:
    """Return the backend of a *site* whose runs share a machine with others; None for a cluster."""
    return None if site.slurm is not None else backend_of(site)


def end_abandoned(
    settings: Settings,
    backend_for: Callable[[Site], Backend | None],
    root: Path,
    mine: TaskIdentity,
) -> list[str]:
    """End and record each run below *root* whose task is over; return the names of these runs.

    *backend_for* gives the backend of a run's site, or None to leave its run alone: sites may share
    a folder. *mine* is left alone. What cannot be ended now is tried again before the next run.
    """
    from trainyard.ingest import finish_run
    from trainyard.study import read_study

    ended = []
    for paths, claim in claims.every(root):
        if claim.task.is_same_task(mine):
            continue
        try:
            run = read_study(Path(claim.plan)).run(claim.index)
            backend = backend_for(run.study.site)
            if backend is None or state_of(claim.task) not in OVER:
                continue
            log.warning("Nobody waits for run %s: it is ended", paths.run_id)
            seen = backend.cancel(paths, why="its task ended without it")
            backend.sweep(paths)
            finish_run(settings, run, paths, identity=claim.task, seen=seen)
            ended.append(paths.run_id)
        except TrainyardError:
            log.exception("Run %s could not be ended and recorded", paths.run_id)
    return ended
