"""Where a training task stands: whether somebody killed it, and which job is its."""

from __future__ import annotations

import logging
import threading
from typing import Any
from urllib.parse import quote

from trainyard.backends.identity import TaskIdentity
from trainyard.operators.abandoned import state_of
from trainyard.paths import RunPaths
from trainyard.settings import Settings
from trainyard.sites import Launcher, Site

LOG = logging.getLogger(__name__)
_ANSWER_S = 1.5  # of the five seconds that Airflow leaves an operator that is killed


def still_running(task: TaskIdentity | None) -> bool:
    """Return whether Airflow still takes *task* for running: then nobody has killed it.

    Called in a signal handler. The interrupted code may hold the way to the API, so the question
    is asked from a thread and given up soon. No answer means no: a run that somebody wanted gone
    must not go on, and one that is ended by mistake is seconds old and run again.
    """
    answer: list[bool] = []

    def ask(identity: TaskIdentity) -> None:
        try:
            answer.append(state_of(identity) == "running")
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
            LOG.warning("Airflow does not say whether the task was killed: %s", error)

    if task is None:
        return False
    thread = threading.Thread(target=ask, args=(task,), daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return bool(answer and answer[0])


def told_of_job(site: Site, paths: RunPaths) -> dict[str, Any] | None:
    """Return id, nodes and state of the run's newest Slurm job; None without one."""
    from trainyard.slurm.runjob import job_of

    if site.launcher is not Launcher.SLURM:
        return None
    job = job_of(paths, site.runs_dir)
    if job.attempt is None or not job.attempt.job_id:
        return None
    return {
        "job_id": job.attempt.job_id,
        "name": job.attempt.key,
        "submission": job.key.generation + 1,
        "nodes": job.verdict.nodes if job.verdict else "",
        "state": job.verdict.state if job.verdict else "submitted",
        "run_dir": str(paths.run_dir),
    }


def job_page(settings: Settings, task: TaskIdentity) -> str:
    """Return the page of Airflow that shows the job of *task*: the values it pushed."""
    parts = ["dags", task.dag_id, "runs", task.dag_run_id, "tasks", task.task_id]
    parts += ["mapped", str(task.map_index)] if task.map_index >= 0 else []
    path = "/".join(quote(part, safe="") for part in parts)
    return f"{settings.airflow_public_url.rstrip('/')}/{path}/xcom"
