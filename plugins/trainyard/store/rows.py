"""What the store keeps: one frozen record per row, checked before anything reaches a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from trainer.contract import RunResult, RunSpec, Status
from trainyard.errors import ConfigurationError


class RunState(StrEnum):
    """State of a stored run: how it ended, or that it has not."""

    RUNNING = "running"
    LOST = "lost"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


_RANK = {
    (RunState.RUNNING, False): 0,
    (RunState.LOST, False): 1,
    (RunState.FAILED, False): 2,
    (RunState.CANCELLED, False): 3,
    (RunState.RUNNING, True): 4,
    (RunState.LOST, True): 5,
    (RunState.FAILED, True): 6,
    (RunState.CANCELLED, True): 7,
    (RunState.COMPLETED, True): 8,
}


def precedence(state: str, *, has_result: bool) -> int:
    """Return how much a row in *state* knows; a row never gives way to one that knows less.

    With a result beats without one; then completed, cancelled, failed, lost, running. The same
    number: the later ``ended_at`` stays. So an older or slower writer never turns a completed run
    into a lost one, and never replaces a result by none.
    """
    return _RANK[RunState(state), has_result]


class StudyState(StrEnum):
    """State of a study."""

    PLANNED = "planned"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Verdict(StrEnum):
    """What one environment check says."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(kw_only=True, slots=True, frozen=True)
class RunRow:
    """One training run as Airflow saw it, with the record the trainer left, if it left one."""

    run_id: str
    """Name of the run folder; the same for every try."""
    study_id: str = ""
    """Study it belongs to, stored before; empty for a run of its own."""
    site: str
    """Where it ran."""
    launcher: str
    """What started it."""
    suite: str = ""
    """Suite the spec came from."""
    status: str
    """One of ``RunState``."""
    phase: str = ""
    """How far it came (``trainer.contract.Phase``)."""
    reason: str = ""
    """Why it did not complete."""
    log_tail: str = ""
    """Last lines of its log when it did not complete."""
    spec: RunSpec
    """What was to run."""
    result: RunResult | None = None
    """What happened; None when the run left no result."""
    repeat: int = 0
    """Number of the repeat of its configuration, from 0."""
    exit_code: int | None = None
    """Exit code of the launched command; None when it is unknown."""
    dag_id: str = ""
    """Airflow DAG."""
    dag_run_id: str = ""
    """Airflow DAG run."""
    task_id: str = ""
    """Airflow task."""
    map_index: int = -1
    """Airflow map index, -1 for a task that is not mapped."""
    try_number: int = 0
    """Airflow try that stored this row."""
    submitted_at: str | None = None
    """When it was handed to the launcher, ISO 8601; without a zone it is taken as UTC."""
    ended_at: str | None = None
    """When it ended; the result's own moment where this is None."""
    mlflow_run_id: str = ""
    """Run in the tracking server, once recorded."""
    mlflow_url: str = ""
    """Page of that run."""
    artifacts_uri: str = ""
    """Where its files are in the object store."""

    def __post_init__(self) -> None:
        """Refuse a row that contradicts itself."""
        _member(RunState, "status", self.status, f"run {self.run_id}")
        if self.result is None:
            if self.status == RunState.COMPLETED:
                raise ConfigurationError(
                    f"run {self.run_id}: status = 'completed' needs a result; without one the "
                    "run is failed (there is an exit code) or lost (there is none)"
                )
            return
        if self.status == RunState.COMPLETED and self.result.status is not Status.COMPLETED:
            raise ConfigurationError(
                f"run {self.run_id}: status = 'completed', but its result says "
                f"{self.result.status.value!r}; store it with the result's status"
            )
        for name, mine in (("run_id", self.run_id), ("spec_id", self.spec.spec_id)):
            theirs = getattr(self.result, name)
            if theirs != mine:
                raise ConfigurationError(
                    f"run {self.run_id}: its result carries {name} = {theirs!r}, expected "
                    f"{mine!r}; it is the result of another run"
                )

    @property
    def end(self) -> str | None:
        """When the run ended: ``ended_at``, else what the result says, else None."""
        if self.ended_at is None and self.result is not None and self.result.provenance:
            return self.result.provenance.ended_at
        return self.ended_at


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyRow:
    """One study: a planned set of runs, drawn up before the first of them starts."""

    study_id: str
    """Name of the study."""
    suite: str
    """Suite its runs come from."""
    site: str
    """Where it runs."""
    dag_run_id: str = ""
    """Airflow DAG run."""
    title: str = ""
    """Title for people."""
    preset: str = ""
    """Preset it was planned with."""
    dataset: str = ""
    """Data set."""
    dataset_digest: str = ""
    """SHA-256 of its staged archive."""
    repeats: int = 1
    """Runs per configuration."""
    order_seed: int = 0
    """Seed of the drawn order."""
    plan: Any = ()
    """Planned runs in their order: anything JSON can hold."""
    status: str = StudyState.RUNNING
    """One of ``StudyState``."""
    created_at: str
    """When it was planned, ISO 8601; without a zone it is taken as UTC."""
    ended_at: str | None = None
    """When it ended."""
    mlflow_experiment_id: str = ""
    """Experiment in the tracking server."""
    mlflow_run_id: str = ""
    """Parent run in the tracking server."""
    mlflow_url: str = ""
    """Page of that run."""
    report_uri: str = ""
    """Report in the object store."""
    report_path: str = ""
    """Report on disk."""
    note: str = ""
    """What a reader should know, for example what could not run."""

    def __post_init__(self) -> None:
        """Refuse an unknown state."""
        _member(StudyState, "status", self.status, f"study {self.study_id}")


@dataclass(kw_only=True, slots=True, frozen=True)
class EnvironmentCheck:
    """One check of one verification of a site; all of one verification share ``checked_at``."""

    site: str
    """Site that was verified."""
    checked_at: str
    """When, ISO 8601; without a zone it is taken as UTC."""
    name: str
    """What was checked."""
    measured: str
    """What was found, with its unit."""
    requirement: str
    """What is needed."""
    verdict: str
    """One of ``Verdict``."""
    detail: str = ""
    """What to do about it."""
    dag_run_id: str = ""
    """Airflow DAG run."""

    def __post_init__(self) -> None:
        """Refuse an unknown verdict."""
        _member(Verdict, "verdict", self.verdict, f"check {self.name} of site {self.site}")


@dataclass(kw_only=True, slots=True, frozen=True)
class AuditRow:
    """One DAG run and who had it; written when it starts, and again when it ends."""

    dag_id: str
    """DAG."""
    dag_run_id: str
    """DAG run."""
    kind: str
    """Airflow's type of the run: manual, scheduled, backfill, asset_triggered …"""
    triggered_by: str = ""
    """Through what: ui, rest_api, cli, timetable, asset, backfill …"""
    user_name: str = ""
    """Who; empty when nobody did and Airflow started it by itself."""
    conf: Any = None
    """What it was triggered with, secrets masked: anything JSON can hold."""
    queued_at: str | datetime | None = None
    """When it was asked for."""
    started_at: str | datetime | None = None
    """When it started."""
    ended_at: str | datetime | None = None
    """When it ended; None while it runs."""
    state: str
    """Airflow's state of the run."""
    clears: int = 0
    """How often the whole DAG run was cleared."""


def _member(kind: type[StrEnum], field: str, value: str, owner: str) -> None:
    if value not in set(kind):
        choices = ", ".join(member.value for member in kind)
        raise ConfigurationError(f"{owner}: {field} = {value!r}; choose from {choices}")


def moment(value: str | datetime | None, field: str = "time") -> str | None:
    """Return *value* as UTC text of fixed width, which sorts by time; None stays None.

    Raises ``ConfigurationError`` for text that is no ISO 8601 date and time.
    """
    if value is None or value == "":
        return None
    try:
        given = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{field} = {value!r}: must be an ISO 8601 date and time, "
            "for example 2026-11-22T02:00:00+00:00"
        ) from error
    aware = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    return aware.isoformat(timespec="microseconds")


def text(value: str) -> str:
    """Return *value* as both databases can hold it.

    PostgreSQL knows no NUL character, and neither stores half a surrogate pair; a log may hold
    both. Each becomes U+FFFD or ``?`` instead of costing the whole row.
    """
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
