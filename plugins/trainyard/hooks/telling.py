"""What every task and trigger process does first: hide secrets, say what its lines are about.

Airflow masks passwords of its own connections and variables. Trainyard's are in its settings file,
which Airflow does not know, so they are named to its masker before a task runs: from then on they
are ``***`` in task logs, rendered templates and tracebacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from trainyard.errors import TrainyardError
from trainyard.logs import bind
from trainyard.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance


@hookimpl
def on_starting(component: Any) -> None:
    """Prepare a service: what it copies from its tasks to its own output hides secrets as well.

    Airflow 3.3's LocalExecutor copies every line of every task to the scheduler's output, and masks
    only the file. Its workers are forks of the scheduler and have what is set here.
    """
    del component
    mask_settings()
    _mask_output()


def _mask_output() -> None:
    import structlog
    from airflow.sdk.log import mask_logs

    *first, last = structlog.get_config()["processors"]
    if mask_logs not in first:
        structlog.configure(processors=[*first, mask_logs, last])


@hookimpl
def on_task_instance_running(previous_state: Any, task_instance: RuntimeTaskInstance) -> None:
    """Prepare the process of a task; Airflow calls this before the task's own code."""
    del previous_state
    mask_settings()
    index = task_instance.map_index
    bind(
        dag_id=task_instance.dag_id,
        dag_run_id=task_instance.run_id,
        task_id=task_instance.task_id,
        map_index=None if index in {None, -1} else index,
        try_number=task_instance.try_number,
    )


def mask_settings() -> None:
    """Have Airflow hide the secrets of the settings file, if there is one, in this process."""
    from airflow.sdk.log import mask_secret

    try:
        settings = load_settings()
    except TrainyardError:
        return  # the task that needs it says so
    for secret in settings.secrets():
        mask_secret(secret)
