"""Pieces that several DAGs are put together from, and what all their tasks have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TriggerRule

from trainyard.operators.lanes import Lane, lanes
from trainyard.operators.launch import TrainOperator
from trainyard.operators.profile import (
    CompareProfilesOperator,
    PlanSuggestionOperator,
    ProfileOperator,
)
from trainyard.operators.reconcile import ReconcileSlurmOperator
from trainyard.operators.retries import RUN_RETRIES
from trainyard.operators.tasks import (
    FetchDatasetOperator,
    PlanStudyOperator,
    ReportOperator,
    VerifyEnvironmentOperator,
)
from trainyard.operators.verified import VERIFIED

OWNER = "trainyard"
CHANGED = "changed_"
"""Before the task ids of runs that try a suggestion."""
DEFAULTS: dict[str, Any] = {
    "owner": OWNER,
    "retries": 2,
    "retry_delay": timedelta(seconds=15),
    "execution_timeout": timedelta(minutes=15),
}
"""What every task gets unless it says otherwise; a run's own limit is its site's."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Runs:
    """The planning task and the training tasks of one study."""

    plan: PlanStudyOperator
    """Draws up the runs."""
    training: list[Any]
    """One mapped task per kind of site and priority tier."""


def verify(*, reuse: bool = False) -> VerifyEnvironmentOperator:
    """Return the task that checks and probes the chosen site; *reuse*: only where that is stale."""
    return VerifyEnvironmentOperator(
        task_id="verify_environment",
        reuse=reuse,
        outlets=[VERIFIED],
        doc_md="Checks versions, cores, memory, disk and services, and measures the nodes.",
    )


def fetch() -> FetchDatasetOperator:
    """Return the task that stages the chosen data set and prepares it on the site."""
    return FetchDatasetOperator(
        task_id="fetch_dataset",
        # A large download on a slow line; it resumes where it stopped when the task is tried again.
        execution_timeout=timedelta(hours=2),
        doc_md="Downloads, verifies and stages the data set once, and prepares it on the site.",
    )


def reconcile() -> ReconcileSlurmOperator:
    """Return the task that compares jobs and tasks of the chosen Slurm sites."""
    return ReconcileSlurmOperator(
        task_id="reconcile", doc_md="Lists jobs without a task and tasks without a job."
    )


def runs(suite: str, fetched: FetchDatasetOperator, *, in_study: bool) -> Runs:
    """Return the task that plans *suite* and the tasks that run it, one per lane."""
    tasks = lanes()
    plan = PlanStudyOperator(
        task_id="plan",
        suite=suite,
        dataset_digest=fetched.output,
        lanes={name: lane.task for name, lane in tasks.items()},
        in_study=in_study,
        doc_md="Draws up every run, in a random order of blocks, before the first one starts.",
    )
    return Runs(plan=plan, training=_training(plan, tasks))


def _training(plan: Any, tasks: dict[str, Lane], prefix: str = "") -> list[Any]:
    """Return one mapped task per lane over what *plan* returns."""
    return [
        TrainOperator.partial(
            task_id=f"{prefix}{lane.task}",
            pool=lane.pool,
            priority_weight=lane.weight,
            weight_rule="absolute",
            map_index_template="{{ task.planned['label'] }}",
            retries=2,
            # What the class sets by itself, a mapped task does not have.
            retry_policy=RUN_RETRIES,
            doc_md=f"One training run per mapped task, measured in the pool {lane.pool}.",
        ).expand(planned=plan.output)
        for lane in {lane.task: lane for lane in tasks.values()}.values()
    ]


def profile(made: Runs) -> None:
    """Add the verdict on the profiled runs, and the suggestion tried when the form says so."""
    verdict = ProfileOperator(
        task_id="profile",
        planned=made.plan.output,
        # A lane that is not the site's is skipped; a run that failed fails this with its reason.
        trigger_rule=TriggerRule.ALL_DONE,
        doc_md="Analyses the traces: what bounds a step, what profiling cost, what to try next.",
    )
    tasks = lanes()
    suggestion = PlanSuggestionOperator(
        task_id="plan_suggestion",
        planned=made.plan.output,
        profiled=verdict.output,
        lanes={name: f"{CHANGED}{lane.task}" for name, lane in tasks.items()},
        doc_md="Plans the same runs with the first suggestion of the verdict, where there is one.",
    )
    changed = _training(suggestion, tasks, CHANGED)
    compared = CompareProfilesOperator(
        task_id="compare",
        before=made.plan.output,
        after=suggestion.output,
        trigger_rule=TriggerRule.ALL_DONE,
        doc_md="Profiles with the change, and sets before and after side by side.",
    )
    profile_complete = EmptyOperator(
        task_id="profile_complete",
        trigger_rule=TriggerRule.NONE_FAILED,
        doc_md="Green only when every run, the verdict and the comparison succeeded.",
    )
    made.training >> verdict
    changed >> compared
    [verdict, compared, *made.training, *changed] >> profile_complete


def report(made: Runs) -> None:
    """Add the report, and the task that is red when any part of the study is.

    The report is written however the runs ended, so by itself it would make a study with a failed
    run look good. The last task is empty: the scheduler settles it without starting a process.
    """
    written = ReportOperator(
        task_id="report",
        planned=made.plan.output,
        # Not ALL_DONE_MIN_ONE_SUCCESS: that one skips the report as soon as any lane was skipped.
        trigger_rule=TriggerRule.ALL_DONE,
        doc_md="Collects all runs, fits, draws and publishes the report as HTML and PDF.",
    )
    study_complete = EmptyOperator(
        task_id="study_complete",
        trigger_rule=TriggerRule.NONE_FAILED,
        doc_md="Green only when every run and the report succeeded.",
    )
    made.training >> written
    [written, *made.training] >> study_complete
