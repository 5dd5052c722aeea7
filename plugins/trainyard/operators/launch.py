"""``TrainOperator``: one training run as a deferrable task that always finds its run again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, ExceptionRetryPolicy, RetryAction, RetryRule

from trainer.contract import Status
from trainyard.backends import Backend, Observation, State, claims, folder, open_backend
from trainyard.backends.identity import Claim
from trainyard.errors import (
    ConfigurationError,
    RunCancelledError,
    RunFailedError,
    RunLostError,
    UnavailableError,
)
from trainyard.launch import launch
from trainyard.operators.abandoned import end_abandoned, identity_of
from trainyard.operators.links import MLflowRunLink, RunFolderLink
from trainyard.paths import RunPaths
from trainyard.settings import Settings, load_settings
from trainyard.study import StudyRun, run_of
from trainyard.triggers.run import RunTrigger

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from trainyard.store import RunRow

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
_BACKSTOP = timedelta(minutes=2)
_TRIGGER_FAILED = "__fail__"  # Airflow's name for "resume only to fail"
_ON_KILL_GRACE_S = 2.0  # Airflow sends SIGKILL five seconds after on_kill began


class TrainOperator(BaseOperator):
    """Runs one planned training run; while it trains, no worker slot is held.

    The run is named after the task instance, not after the try: a try that finds it running waits
    for it, one that finds it over records it. Only a run that was lost, was cancelled, or whose
    outcome is recorded already (a cleared task) is run again, as a further attempt beside it.

    :param planned: Where the run is planned: ``plan`` (path of plan.json), ``index``, ``label``.
        (templated)
    :param poll_interval_s: Seconds between two looks of the trigger.
    """

    template_fields: Sequence[str] = ("planned",)
    operator_extra_links = (MLflowRunLink(), RunFolderLink())
    ui_color = "#dfe9f5"

    def __init__(
        self, *, planned: Mapping[str, Any], poll_interval_s: float = 0.5, **kwargs: Any
    ) -> None:
        """Keep the arguments; nothing is read before the task runs."""
        kwargs.setdefault("retry_policy", RETRIES)
        super().__init__(**kwargs)
        self.planned = planned
        self.poll_interval_s = poll_interval_s
        self.mlflow_url = ""
        self.files_url = ""
        self._held: RunPaths | None = None

    @cached_property
    def _run(self) -> StudyRun:
        return run_of(self.planned)

    @cached_property
    def _backend(self) -> Backend:
        return open_backend(self._run.study.site)

    @cached_property
    def _settings(self) -> Settings:
        return load_settings()

    def execute(self, context: Context) -> str:
        """Start the run or find it again, and wait for its end in the triggerer."""
        end_abandoned(self._settings, self._backend, self._run.paths.root, identity_of(context))
        paths = self._settle_earlier(context)
        run = self._run
        # Known before the process exists, so that on_kill ends it whenever it comes.
        self._held = paths
        # Claimed before it exists, so that the next task finds it should this worker die now.
        if not claims.take(paths, self._claim(context)):
            raise RunLostError(
                f"run {paths.run_id} is being ended by whoever killed the try before this one; "
                "the next try starts it anew"
            )
        seen = self._backend.start(
            launch(run.planned.spec, run.study.site, paths), paths, run.planned.spec
        )
        self.files_url = paths.run_dir.as_uri()
        self.log.info("Run %s: %s, %s", paths.run_id, seen.state, seen.detail)
        context["task_state_store"].set("run_id", paths.run_id)
        if seen.state.is_over:
            return self._finish(context, paths, seen)
        return self._wait(paths, seen, identity_of(context).try_number)

    def _claim(self, context: Context) -> Claim:
        return Claim(
            plan=str(self.planned["plan"]),
            index=int(self.planned["index"]),
            task=identity_of(context),
        )

    def _settle_earlier(self, context: Context) -> RunPaths:
        """Return the attempt to run, after recording one that nobody will continue."""
        paths = folder.attempt_to_run(self._run.paths)
        seen = self._backend.observe(paths)
        asked_to_end = folder.cancelled(paths) is not None and seen.state is not State.NOT_STARTED
        if asked_to_end and not seen.state.is_over:
            seen = self._backend.cancel(paths, why="its task was cleared")
        if seen.state in {State.LOST, State.CANCELLED}:
            row = self._record(context, paths, seen)
            self.log.warning("Run %s was %s: %s", paths.run_id, row.status, row.reason)
            paths = folder.attempt_to_run(self._run.paths)
        return paths

    def _wait(self, paths: RunPaths, seen: Observation, try_number: int) -> NoReturn:
        limit_s = self._run.study.site.run_timeout_s
        deadline = (seen.started_at or time.time()) + limit_s
        self.defer(
            trigger=RunTrigger(
                plan=str(self.planned["plan"]),
                run_id=paths.run_id,
                deadline=deadline,
                owner=try_number,
                poll_interval_s=self.poll_interval_s,
            ),
            method_name="execute_complete",
            # The trigger reports the deadline itself; this is for a triggerer that is gone.
            timeout=timedelta(seconds=max(1.0, deadline - time.time())) + _BACKSTOP,
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Record the run that the trigger saw end, or end and record one that took too long."""
        paths = RunPaths(root=self._run.paths.root, run_id=event["run_id"])
        self._held = paths
        if event["timed_out"]:
            seen = self._backend.cancel(paths, why=_too_long(self._run))
        else:
            seen = self._backend.observe(paths)
        return self._finish(context, paths, seen, timed_out=event["timed_out"])

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Resume; end the run first when no trigger came back before the time was over."""
        from airflow.sdk.exceptions import TaskDeferralTimeout

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            paths = folder.attempt_to_run(self._run.paths)
            seen = self._backend.cancel(paths, why=_too_long(self._run))
            return self._finish(context, paths, seen, timed_out=True)

    def on_kill(self) -> None:
        """End the run when the task is killed before it waits in the triggerer."""
        if self._held is not None:
            self._backend.cancel(
                self._held, why="its task was killed in Airflow", grace_s=_ON_KILL_GRACE_S
            )

    def _finish(
        self, context: Context, paths: RunPaths, seen: Observation, *, timed_out: bool = False
    ) -> str:
        """Record the run; return its id when it completed, raise what Airflow should know else."""
        if not seen.state.is_over:
            raise UnavailableError(f"run {paths.run_id} {seen.detail}: it has not ended yet")
        row = self._record(context, paths, seen, timed_out=timed_out)
        self.mlflow_url, self.files_url = row.mlflow_url, row.artifacts_uri
        if row.status == Status.COMPLETED:
            self._log_numbers(row)
            return row.run_id
        raise _ERRORS[Status(row.status)](_told(row))

    def _record(
        self, context: Context, paths: RunPaths, seen: Observation, *, timed_out: bool = False
    ) -> RunRow:
        from trainyard.ingest import finish_run

        if swept := self._backend.sweep(paths):
            self.log.warning("Ended %s processes that outlived run %s", swept, paths.run_id)
        return finish_run(
            self._settings,
            self._run,
            paths,
            identity=identity_of(context),
            seen=seen,
            timed_out=timed_out,
        )

    def _log_numbers(self, row: RunRow) -> None:
        metrics = row.result.metrics if row.result else ()
        for metric in metrics:
            self.log.info("%s = %.6g %s", metric.name, metric.value, metric.unit)
        if row.result and row.result.flags:
            flags = ", ".join(row.result.flags)
            self.log.warning("Not comparable: %s", flags)


_ERRORS = {
    Status.FAILED: RunFailedError,
    Status.CANCELLED: RunCancelledError,
    Status.LOST: RunLostError,
}


def _told(row: RunRow) -> str:
    tail = f"\nThe log ends with:\n{row.log_tail}" if row.log_tail else ""
    return f"run {row.run_id} {row.status} in phase {row.phase}: {row.reason}{tail}"


def _too_long(run: StudyRun) -> str:
    return f"it took longer than {run.study.site.run_timeout_s} s, the limit of its site"
