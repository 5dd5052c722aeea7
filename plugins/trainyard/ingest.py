"""From the evidence of a finished run to its row, files and tracking record. Free of Airflow.

Every step can be repeated: a task that dies between two of them does all of them again.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trainyard.backends import (
    Backend,
    JobUsage,
    Observation,
    State,
    claims,
    folder,
    open_backend,
)
from trainyard.backends.identity import TaskIdentity
from trainyard.errors import UnavailableError
from trainyard.outcome import Outcome, judge
from trainyard.paths import RunPaths
from trainyard.settings import Settings
from trainyard.study import StudyFile, StudyRun

if TYPE_CHECKING:
    from trainyard.store import RunRow, Store

log = logging.getLogger(__name__)


def finish_run(
    settings: Settings,
    run: StudyRun,
    paths: RunPaths,
    *,
    identity: TaskIdentity,
    seen: Observation,
    timed_out: bool = False,
    usage: tuple[JobUsage, ...] = (),
) -> RunRow:
    """Judge the run whose files are *paths*, keep everything about it, and return its row.

    The row comes first, so that a run counts even while the tracking server or the object store is
    down; then its files, its MLflow run, the links, and last the mark that all of it is done.
    Raises ``UnavailableError`` when a service does not answer: call it again later.
    """
    outcome = judge(
        paths,
        run.planned.spec,
        seen,
        timed_out_after_s=run.study.site.longest_s if timed_out else None,
    )
    row = _row(run, paths, identity, seen, outcome)
    _store_row(settings, run, paths, row, usage)
    row = _publish(settings, paths, row)
    if paths.run_dir.is_dir():
        folder.write_once(paths.recorded, f"{row.status}\n")
    claims.drop(paths)
    return row


def collect_missing(
    settings: Settings, study: StudyFile, backend: Backend | None = None
) -> list[RunRow]:
    """Record every run of *study* whose task could not do it, and return the rows made.

    *backend* is the site's, where it needs more than the site file to be reached.

    A user who marks a deferred task as failed ends its run but wakes no worker; a run whose task
    never started has no folder at all. Both still get a row, and a run that nobody waits for any
    more is ended.
    """
    made = []
    backend = backend or open_backend(study.site)
    for index in range(len(study.plan.runs)):
        run = study.run(index)
        paths = run.paths.attempt(folder.newest_attempt(run.paths))
        if paths.recorded.exists():
            continue
        seen = backend.observe(paths)
        if seen.state in {State.RUNNING, State.UNKNOWN, State.INTERRUPTED}:
            seen = backend.cancel(paths, why="its task ended without it")
        backend.sweep(paths)
        task = TaskIdentity(
            dag_id=study.dag_id,
            dag_run_id=study.dag_run_id,
            task_id=study.task_id,
            map_index=index if study.mapped else -1,
        )
        used = backend.usage(paths)
        made.append(finish_run(settings, run, paths, identity=task, seen=seen, usage=used))
    return made


def _row(
    run: StudyRun, paths: RunPaths, identity: TaskIdentity, seen: Observation, outcome: Outcome
) -> RunRow:
    from trainyard.store import RunRow

    started = datetime.fromtimestamp(seen.started_at, UTC) if seen.started_at else None
    return RunRow(
        run_id=paths.run_id,
        study_id=run.study.study_id,
        site=run.study.site.name,
        launcher=run.study.site.launcher,
        suite=run.study.plan.suite,
        status=outcome.status,
        phase=outcome.phase,
        reason=outcome.reason,
        log_tail=outcome.log_tail,
        spec=run.planned.spec,
        result=outcome.result,
        repeat=run.planned.repeat,
        exit_code=outcome.exit_code,
        dag_id=identity.dag_id,
        dag_run_id=identity.dag_run_id,
        task_id=identity.task_id,
        map_index=identity.map_index,
        try_number=identity.try_number,
        submitted_at=started.isoformat() if started else None,
        ended_at=_end(outcome),
    )


def _end(outcome: Outcome) -> str:
    """Return when the run ended: as it says, else now, when somebody first looked."""
    if outcome.result is not None and outcome.result.provenance is not None:
        return outcome.result.provenance.ended_at
    return datetime.now(UTC).isoformat()


def _store_row(
    settings: Settings,
    run: StudyRun,
    paths: RunPaths,
    row: RunRow,
    usage: tuple[JobUsage, ...],
) -> None:
    """Save *row* and what it used, and take the attempts before it out of the study."""
    from trainyard.store import open_store

    with open_store(settings.results_url) as store:
        for number in range(1, folder.newest_attempt(run.paths)):
            _detach(store, run.paths.attempt(number).run_id, by=paths.run_id)
        store.save_run(row)
        if usage:
            store.save_usage(row.run_id, [asdict(one) for one in usage])


def _detach(store: Store, run_id: str, *, by: str) -> None:
    earlier = store.run(run_id)
    if earlier is not None and earlier.study_id:
        store.save_run(replace(earlier, study_id=""))
        log.info("Run %s stays stored, but leaves its study: %s took its place", run_id, by)


def _publish(settings: Settings, paths: RunPaths, row: RunRow) -> RunRow:
    """Put the run's files and its MLflow run where people look; return the row with the links."""
    from trainyard import lineage
    from trainyard.store import open_store

    if paths.run_dir.is_dir():
        _store_files(settings, paths)
        row = replace(row, artifacts_uri=f"s3://{settings.s3_bucket}/runs/{row.run_id}/")
    found = lineage.record_run(settings, row, paths.run_dir)
    row = replace(row, mlflow_run_id=found.run_id, mlflow_url=found.url)
    with open_store(settings.results_url) as results:
        results.link_run(
            row.run_id,
            mlflow_run_id=row.mlflow_run_id,
            mlflow_url=row.mlflow_url,
            artifacts_uri=row.artifacts_uri,
        )
    return row


def _store_files(settings: Settings, paths: RunPaths) -> None:
    """Send what streaming has not sent; say in the database how complete the files are.

    Raises ``UnavailableError`` when some are missing: the row says so until a later call succeeds.
    """
    from trainyard.store import open_store
    from trainyard.store.storage import save_artifacts
    from trainyard.streaming import finish

    done = finish(settings, paths)
    with open_store(settings.results_url) as results:
        save_artifacts(
            results,
            paths.run_id,
            stored=done.stored,
            missing=done.missing,
            size_bytes=done.size_bytes,
            detail=done.detail,
        )
    if done.missing:
        raise UnavailableError(f"{done.missing} files of run {paths.run_id}: {done.detail}")
