"""``TrainOperator``: one training run as a deferrable task that always finds its run again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator

from trainer.contract import Status
from trainyard.backends import Backend, Observation, State, claims, folder
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.errors import (
    RunCancelledError,
    RunFailedError,
    RunLostError,
    UnavailableError,
)
from trainyard.hooks.backends import backend_of
from trainyard.logs import bind
from trainyard.operators.abandoned import backend_beside, end_abandoned, identity_of
from trainyard.operators.links import MLflowRunLink, RunFolderLink, SlurmJobLink
from trainyard.operators.retries import RUN_RETRIES, refuse_repeat
from trainyard.operators.standing import job_page, still_running, told_of_job
from trainyard.paths import RunPaths
from trainyard.settings import Settings, load_settings
from trainyard.sites import Launcher
from trainyard.study import StudyRun, launch_of, run_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from trainyard.store import RunRow
    from trainyard.triggers.base import RunWaiter

_BACKSTOP = timedelta(minutes=2)
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
    operator_extra_links = (MLflowRunLink(), RunFolderLink(), SlurmJobLink())
    ui_color = "#dfe9f5"

    def __init__(
        self, *, planned: Mapping[str, Any], poll_interval_s: float = 0.5, **kwargs: Any
    ) -> None:
        """Keep the arguments; nothing is read before the task runs."""
        # Mapping passes every argument of Airflow's own, this one as None.
        kwargs["retry_policy"] = kwargs.get("retry_policy") or RUN_RETRIES
        super().__init__(**kwargs)
        self.planned = planned
        self.poll_interval_s = poll_interval_s
        self.mlflow_url = ""
        self.files_url = ""
        self.job_url = ""
        self._held: RunPaths | None = None
        self._identity: TaskIdentity | None = None

    @cached_property
    def _run(self) -> StudyRun:
        return run_of(self.planned)

    @cached_property
    def _backend(self) -> Backend:
        return backend_of(self._run.study.site)

    @cached_property
    def _settings(self) -> Settings:
        return load_settings()

    def execute(self, context: Context) -> str:
        """Start the run or find it again, and wait for its end in the triggerer."""
        self._identity = mine = identity_of(context)
        # On a cluster nobody else's run disturbs this one's measurement: reconcile_slurm looks.
        if self._run.study.site.launcher is not Launcher.SLURM:
            end_abandoned(self._settings, backend_beside, self._run.paths.root, mine)
        return self._run_or_find(context, self._settle_earlier(context))

    def _run_or_find(self, context: Context, paths: RunPaths) -> str:
        """Start the run, continue it, or find it again; wait unless it is over."""
        # Known before the process exists, so that on_kill ends it whenever it comes.
        self._hold(paths)
        # Claimed before it exists, so that the next task finds it should this worker die now.
        if not claims.take(paths, self._claim(context)):
            raise RunLostError(
                f"run {paths.run_id} is being ended by whoever killed the try before this one; "
                "the next try starts it anew"
            )
        from trainyard.streaming import restore_lost

        restore_lost(self._settings, self._run, paths)
        spec = self._run.planned.spec
        seen = self._backend.start(launch_of(self._run, paths), paths, spec)
        self.files_url = paths.run_dir.as_uri()
        self.log.info("Run %s: %s, %s", paths.run_id, seen.state, seen.detail)
        self._say_where(context, paths)
        if seen.state.is_over:
            return self._finish(context, paths, seen)
        claims.take(paths, self._claim(context, deferred=True))
        return self._wait(paths, seen, identity_of(context).try_number)

    def _hold(self, paths: RunPaths) -> None:
        self._held = paths
        bind(run_id=paths.run_id, study_id=self._run.study.study_id or None)

    def _say_where(self, context: Context, paths: RunPaths) -> None:
        """Leave the run's name, and its job's, where the next try and a person find them."""
        store = context["task_state_store"]
        store.set("run_id", paths.run_id)
        if job := told_of_job(self._run.study.site, paths):
            store.set("slurm_job", job)
            context["ti"].xcom_push("slurm_job", job)
            self.job_url = job_page(self._settings, identity_of(context))

    def _claim(self, context: Context, *, deferred: bool = False) -> Claim:
        return Claim(
            plan=str(self.planned["plan"]),
            index=int(self.planned["index"]),
            task=identity_of(context),
            deferred=deferred,
        )

    def _settle_earlier(self, context: Context) -> RunPaths:
        """Return the attempt to run, after recording one that nobody will continue."""
        refuse_repeat(self._run.paths, context, self.retries or 0)
        paths = folder.attempt_to_run(self._run.paths)
        seen = self._backend.observe(paths)
        begun = seen.state is not State.NOT_STARTED
        asked_to_end = begun and folder.cancelled(paths) is not None
        if not seen.state.is_over and (asked_to_end or self._was_cleared(context, paths)):
            seen = self._backend.cancel(paths, why="its task was cleared")
        if seen.state in {State.LOST, State.CANCELLED}:
            row = self._record(context, paths, seen)
            self.log.warning("Run %s was %s: %s", paths.run_id, row.status, row.reason)
            paths = folder.attempt_to_run(self._run.paths)
        return paths

    def _was_cleared(self, context: Context, paths: RunPaths) -> bool:
        """Say whether an earlier try of this task waited in the triggerer and was not told to stop.

        Its trigger is told to end the run, but may come too late: this try may be there first.
        """
        claim = folder.claim_of(paths)
        return (
            claim is not None
            and claim.deferred
            and claim.task.try_number < identity_of(context).try_number
        )

    def _wait(self, paths: RunPaths, seen: Observation, try_number: int) -> NoReturn:
        deadline = (seen.started_at or time.time()) + self._run.study.site.longest_s
        self.defer(
            trigger=self._trigger(paths, deadline, try_number),
            method_name="execute_complete",
            # The trigger reports the deadline itself; this is for a triggerer that is gone.
            timeout=timedelta(seconds=max(1.0, deadline - time.time())) + _BACKSTOP,
        )

    def _trigger(self, paths: RunPaths, deadline: float, owner: int) -> RunWaiter:
        given: dict[str, Any] = {"plan": str(self.planned["plan"]), "run_id": paths.run_id}
        given |= {"deadline": deadline, "owner": owner}
        if self._run.study.site.launcher is Launcher.SLURM:
            from trainyard.triggers.slurm import SlurmJobTrigger

            return SlurmJobTrigger(**given)
        from trainyard.triggers.run import RunTrigger

        return RunTrigger(**given, poll_interval_s=self.poll_interval_s)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Record the run that the trigger saw end; end one that took too long or cannot start."""
        paths = RunPaths(root=self._run.paths.root, run_id=event["run_id"])
        self._identity = identity_of(context)
        self._hold(paths)
        # A worker has it again: should this try fail, the next one goes on where it stopped.
        claims.take(paths, self._claim(context))
        if why := _too_long(self._run) if event["timed_out"] else event.get("stuck"):
            seen = self._backend.cancel(paths, why=str(why))
        else:
            seen = self._backend.observe(paths)
        if seen.state is State.INTERRUPTED:
            self.log.warning("Run %s goes on as another job: %s", paths.run_id, seen.detail)
            return self._run_or_find(context, paths)
        return self._finish(context, paths, seen, timed_out=event["timed_out"])

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Resume; end the run first when no trigger came back before the time was over.

        A trigger that broke is not the run's fault: it goes on, and the next try waits for it.
        """
        from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            paths = folder.attempt_to_run(self._run.paths)
            seen = self._backend.cancel(paths, why=_too_long(self._run))
            return self._finish(context, paths, seen, timed_out=True)
        except TaskDeferralError:
            claims.take(folder.attempt_to_run(self._run.paths), self._claim(context))
            raise

    def on_kill(self) -> None:
        """End the run when a person kills the task before it waits in the triggerer.

        A worker that is shut down is told in the same way. Its task still runs as far as Airflow
        knows; the run goes on, and the next try finds it.
        """
        if self._held is not None and not still_running(self._identity):
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
        self._say_where(context, paths)
        return finish_run(
            self._settings,
            self._run,
            paths,
            identity=identity_of(context),
            seen=seen,
            timed_out=timed_out,
            usage=self._backend.usage(paths),
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
    return f"it took longer than {run.study.site.longest_s} s, the limit of its site"
