"""Which failed tries of a training task are worth another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from trainer.contract import Status
from trainyard.backends import folder
from trainyard.errors import (
    ConfigurationError,
    RunCancelledError,
    RunFailedError,
    RunLostError,
    UnavailableError,
)
from trainyard.paths import RunPaths

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

RETRIES = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[ConfigurationError, RunFailedError, RunCancelledError],
            action=RetryAction.FAIL,
            reason="the same run would end the same way",
        ),
        RetryRule(
            exception=[RunLostError, UnavailableError],
            action=RetryAction.RETRY,
            reason="the run itself is not at fault",
        ),
    ]
)
"""What is worth trying again."""


def refuse_repeat(paths: RunPaths, context: Context, retries: int) -> None:
    """Raise ``RunFailedError`` when the run of *paths* failed and nobody asked for another one.

    Airflow's scheduler can read the end of a task's deferral only after the task went on. It then
    believes that the task died, and plans a try that the policy above never sees. *retries*: those
    of the task; Airflow raises ``max_tries`` with every clearing, so that they tell which try was
    the first after the newest one.
    """
    newest = paths.attempt(folder.newest_attempt(paths))
    try:
        told = newest.recorded.read_text().strip()
    except FileNotFoundError:
        return
    task = context["ti"]
    first = task.max_tries - retries + 1
    if told == Status.FAILED and task.try_number > first:
        raise RunFailedError(
            f"run {newest.run_id} failed and is recorded: it would end the same way. Clear the "
            "task to run it again all the same"
        )
