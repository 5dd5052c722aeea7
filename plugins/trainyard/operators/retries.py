"""Which failed tries of a task are worth another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from trainer.contract import Status
from trainyard.backends import folder
from trainyard.errors import (
    ConfigurationError,
    DatasetError,
    EnvironmentFailedError,
    ProfileError,
    RunCancelledError,
    RunFailedError,
    RunLostError,
    UnavailableError,
)
from trainyard.paths import RunPaths

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


def _never(reason: str, *errors: type[Exception]) -> RetryRule:
    """Return the rule that none of *errors* is tried again."""
    return RetryRule(
        exception=[ConfigurationError, *errors], action=RetryAction.FAIL, reason=reason
    )


RUN_RETRIES = ExceptionRetryPolicy(
    rules=[
        _never("the same run would end the same way", RunFailedError, RunCancelledError),
        RetryRule(
            exception=[RunLostError, UnavailableError],
            action=RetryAction.RETRY,
            reason="the run itself is not at fault",
        ),
    ]
)
"""Training: a run that failed would fail again; one that was lost may succeed."""

TASK_RETRIES = ExceptionRetryPolicy(
    rules=[_never("it stays wrong until somebody changes it", DatasetError, EnvironmentFailedError)]
)
"""Tasks around runs; everything but these is a service that may come back."""

PROFILE_RETRIES = ExceptionRetryPolicy(
    rules=[_never("the same traces say the same again", ProfileError, EnvironmentFailedError)]
)
"""Analysis of profiles; everything but these is a service that may come back."""


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
