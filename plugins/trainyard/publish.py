"""From a finished study to its published report. Free of Airflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.audit import triggered_by
from trainyard.backends import Backend
from trainyard.errors import ConfigurationError, ProfileError
from trainyard.ingest import collect_missing
from trainyard.settings import Settings
from trainyard.study import StudyFile

if TYPE_CHECKING:
    from trainyard.analysis.study import StudyData
    from trainyard.lineage import MlflowRef
    from trainyard.report.document import Section
    from trainyard.store import Store, StudyRow


@dataclass(kw_only=True, slots=True, frozen=True)
class Published:
    """Where a study's report is."""

    html: Path
    """The report on disk."""
    uri: str
    """The report in the object store."""
    url: str
    """Address a browser opens, valid for a week."""
    mlflow_url: str
    """The study's run in the tracking server."""
    summary: str
    """How many runs ended how."""


def publish_report(
    settings: Settings, study: StudyFile, backend: Backend | None = None
) -> Published:
    """Record what is still missing, build the report, and put it where people find it.

    Can be repeated: it replaces the report of the same study. Raises ``UnavailableError`` when a
    service does not answer.
    """
    from trainyard import lineage
    from trainyard.objectstore import ObjectStore
    from trainyard.report import build
    from trainyard.store import open_store

    collect_missing(settings, study, backend)
    more = _profile(settings, study)
    folder = Path(settings.reports_dir) / study.study_id
    with open_store(settings.results_url) as store:
        row = _settled(store, study)
        store.save_study(row)
        files = build(study_data(settings, store, study), folder, more=more)
        objects = ObjectStore(settings)
        objects.put_artifacts(study.study_id, folder, prefix="reports")
        key = f"reports/{study.study_id}/{files.html.relative_to(folder).as_posix()}"
        row = replace(row, report_path=str(files.html), report_uri=objects.uri(key))
        ended = lineage.record_study_end(
            settings,
            row,
            dag_id=study.dag_id,
            triggered_by=triggered_by(store, study.dag_id, study.dag_run_id),
            files=[files.html, files.pdf],
        )
        row = _linked(row, ended)
        store.save_study(row)
    return Published(
        html=files.html,
        uri=row.report_uri,
        url=objects.presigned(key),
        mlflow_url=row.mlflow_url,
        summary=row.note or "all runs completed",
    )


def _profile(settings: Settings, study: StudyFile) -> tuple[Section, ...]:
    """Publish the profile that was taken after the measured runs; return what the report says.

    A study without one has no such section. A profile that cannot be read is said, and costs the
    study nothing.
    """
    from trainyard.profiling.collect import has_profiles
    from trainyard.profiling.publish import publish_profile
    from trainyard.profiling.sections import linked_section, missing_section

    if not has_profiles(study):
        return ()
    try:
        made = publish_profile(settings, study)
    except ProfileError as error:
        return (missing_section(str(error)),)
    return (linked_section(made.row, made.profiled, made.url),)


def study_data(settings: Settings, store: Store, study: StudyFile) -> StudyData:
    """Return everything the report is made of."""
    from trainyard.analysis.study import StudyData
    from trainyard.lineage import dag_run_page

    study_id = study.study_id
    rows = store.query("study", study_id=study_id)
    if not rows:
        raise ConfigurationError(f"study {study_id!r} is not in the results database")
    planned = study.plan.parameters
    dataset = store.query("dataset", name=planned.dataset, digest=planned.dataset_digest)
    page = dag_run_page(settings, study.dag_id, study.dag_run_id)
    return StudyData.of(
        study={
            **rows[0],
            "airflow_url": page,
            "triggered_by": triggered_by(store, study.dag_id, study.dag_run_id),
        },
        runs=store.frame("study_runs", study_id=study_id),
        windows=store.frame("study_windows", study_id=study_id),
        epochs=store.frame("study_epochs", study_id=study_id),
        checks=store.frame("study_checks", study_id=study_id),
        environment=store.query("environment_latest", site=study.site.name),
        dataset=dataset[0] if dataset else None,
    )


def _linked(row: StudyRow, found: MlflowRef) -> StudyRow:
    return replace(
        row,
        mlflow_experiment_id=found.experiment_id,
        mlflow_run_id=found.run_id,
        mlflow_url=found.url,
    )


def _settled(store: Store, study: StudyFile) -> StudyRow:
    """Return the study's row with the end and the state its runs give it."""
    from trainyard.store import StudyState

    row = store.study(study.study_id)
    if row is None:
        raise ConfigurationError(f"study {study.study_id!r} was never planned in this database")
    states = [run["status"] for run in store.query("study_runs", study_id=study.study_id)]
    good = states.count("completed")
    note = "" if good == len(states) else f"{len(states) - good} of {len(states)} runs failed"
    return replace(
        row,
        status=StudyState.FAILED if note else StudyState.COMPLETED,
        note=note,
        ended_at=datetime.now(UTC).isoformat(),
    )
