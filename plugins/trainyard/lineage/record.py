"""Recording studies and runs in the tracking server, so that doing it again changes nothing."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainer.contract import Metric
from trainyard.errors import UnavailableError
from trainyard.lineage import mapping
from trainyard.lineage.artifacts import artifacts_of
from trainyard.lineage.client import CollisionError, Json, MissingError, TrackingClient
from trainyard.settings import Settings

if TYPE_CHECKING:
    from trainyard.store import RunRow, Store, StudyRow

log = logging.getLogger(__name__)

T = TypeVar("T")
_PAUSES = (0.1, 0.2, 0.5, 1.0)
_BORN = "trainyard.recorded_at"
_STUDIES_LOOKED_AT = 200  # newest first: an outage is noticed long before that many studies end


@dataclass(kw_only=True, slots=True, frozen=True)
class MlflowRef:
    """Where something is recorded."""

    experiment_id: str
    """Experiment."""
    run_id: str
    """Run."""
    url: str
    """Its page, for a person's browser."""


def record_study_start(
    settings: Settings, row: StudyRow, *, dag_id: str = "", triggered_by: str = ""
) -> MlflowRef:
    """Record a study as a parent run and return where; its runs are nested under it.

    Idempotent: the parent is found again by its tag. Raises ``UnavailableError`` saying how to
    record it later.
    """
    with _server(settings, f"study {row.study_id}") as client:
        return _settled(lambda: _study(client, settings, row, (dag_id, triggered_by)))[0]


def record_run(settings: Settings, row: RunRow, artifacts_folder: Path | None) -> MlflowRef:
    """Record a training run under its study's parent run, and return where.

    Spec as params, metrics with units, windows and epochs as series, data set, provenance, small
    files of *artifacts_folder* (the run folder; None: no files). Idempotent by tag, so a retry
    after a crash between making the run and filling it goes on with the same run. Raises
    ``UnavailableError`` saying how to record it later.
    """
    with _server(settings, f"run {row.run_id}") as client:
        return _settled(lambda: _record_run(client, settings, row, artifacts_folder))


def _record_run(
    client: TrackingClient, settings: Settings, row: RunRow, folder: Path | None
) -> MlflowRef:
    experiment = client.experiment_id(mapping.experiment_name(row.suite))
    at = mapping.moment_ms(row.submitted_at or row.end)
    nested = _parent_tag(client, experiment, row, at)
    wanted = {mapping.KIND: "run", mapping.RUN_ID: row.run_id}
    run = _one_run(client, experiment, row.spec.name, at, wanted, nested)
    run_id = str(run["info"]["run_id"])
    client.log(
        run_id,
        params=mapping.params(row.spec),
        tags={**mapping.run_tags(settings, row), **nested},
        metrics=mapping.run_metrics(row),
    )
    dataset = mapping.dataset_input(settings, row)
    if dataset is not None:
        client.log_dataset(run_id, dataset, "training")
    for name, content in artifacts_of(row, folder):
        client.put_artifact(run, name, content)
    # Last, so that a run that looks finished is finished.
    _close(client, run_id, row.status, row.end, row.spec.name)
    return _ref(settings, run)


def record_study_end(
    settings: Settings,
    row: StudyRow,
    *,
    dag_id: str = "",
    triggered_by: str = "",
    summary: Sequence[Metric] = (),
    files: Sequence[Path] = (),
) -> MlflowRef:
    """Finish a study's parent run with its *summary* metrics and report *files*; return where.

    Makes the parent if the server was down at the start. Idempotent. Raises ``UnavailableError``
    saying how to record it later.
    """
    with _server(settings, f"study {row.study_id}") as client:
        ref, run = _settled(lambda: _study(client, settings, row, (dag_id, triggered_by)))
        at = mapping.moment_ms(row.ended_at or row.created_at) or 0
        client.log(
            ref.run_id,
            params={},
            tags=mapping.units(summary),
            metrics=mapping.summary_metrics(summary, at),
        )
        for path in files:
            client.put_artifact(run, f"report/{path.name}", path)
        _close(client, ref.run_id, row.status, row.ended_at, row.title or row.study_id)
        return ref


def replay(
    settings: Settings, store: Store, folder_of: Callable[[RunRow], Path | None] = lambda row: None
) -> list[str]:
    """Record every ended run and study the results database holds and the server does not.

    *folder_of* gives a run's folder where it still exists. Returns what was recorded, in order.
    Stops at the first ``UnavailableError``; what is recorded by then stays recorded.
    """
    done = []
    for found in store.query("studies_ended", limit=_STUDIES_LOOKED_AT):
        study = store.study(found["study_id"])
        if study is not None and not _is_closed(settings, study):
            _replay_study(settings, store, study)
            done.append(study.study_id)
    for found in store.query("pending_lineage"):
        row = store.run(found["run_id"])
        if row is not None:
            ref = record_run(settings, row, folder_of(row))
            store.link_run(row.run_id, mlflow_run_id=ref.run_id, mlflow_url=ref.url)
            done.append(row.run_id)
    return done


def _is_closed(settings: Settings, study: StudyRow) -> bool:
    """Return whether the server has the study's parent run, finished."""
    if not study.mlflow_run_id:
        return False
    with _server(settings, f"study {study.study_id}") as client:
        try:
            return client.run_status(study.mlflow_run_id) != "RUNNING"
        except MissingError:  # another server, or its database was lost
            return False


def _replay_study(settings: Settings, store: Store, study: StudyRow) -> None:
    report = Path(study.report_path) if study.report_path else None
    files = [report] if report is not None and report.is_file() else []
    ref = record_study_end(settings, study, files=files)
    linked = replace(
        study, mlflow_experiment_id=ref.experiment_id, mlflow_run_id=ref.run_id, mlflow_url=ref.url
    )
    store.save_study(linked)


def _settled(work: Callable[[], T]) -> T:
    """Do *work* again while another task does the same at the same moment; it is repeatable."""
    for pause_s in _PAUSES:
        try:
            return work()
        except CollisionError as error:
            log.info("Recording again: %s", error)
            time.sleep(random.uniform(pause_s, 2 * pause_s))  # noqa: S311  # parts the contenders
    return work()


@contextmanager
def _server(settings: Settings, what: str) -> Iterator[TrackingClient]:
    """Yield a client; an outage is told together with what is kept and how to go on."""
    client = TrackingClient(settings.mlflow_url)
    try:
        yield client
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}. The {what} is kept in the results database and in the object store; record "
            "it later with `python -m trainyard.lineage replay`"
        ) from error
    finally:
        client.close()


def _study(
    client: TrackingClient, settings: Settings, row: StudyRow, origin: tuple[str, str]
) -> tuple[MlflowRef, Json]:
    experiment = client.experiment_id(mapping.experiment_name(row.suite))
    run = _one_run(
        client,
        experiment,
        row.title or row.study_id,
        mapping.moment_ms(row.created_at),
        {mapping.KIND: "study", mapping.STUDY_ID: row.study_id},
        {},
    )
    client.log(
        str(run["info"]["run_id"]),
        params=mapping.study_params(row),
        tags=mapping.study_tags(settings, row, *origin),
        metrics=[],
    )
    return _ref(settings, run), run


def _parent_tag(
    client: TrackingClient, experiment: str, row: RunRow, at_ms: int | None
) -> dict[str, str]:
    """Return the tag that nests *row* under its study, making the parent if it is missing."""
    if not row.study_id:
        return {}
    wanted = {mapping.KIND: "study", mapping.STUDY_ID: row.study_id}
    parent = _one_run(client, experiment, row.study_id, at_ms, wanted, {})
    return {"mlflow.parentRunId": str(parent["info"]["run_id"])}


def _one_run(
    client: TrackingClient,
    experiment: str,
    name: str,
    start_ms: int | None,
    wanted: Mapping[str, str],
    extra: Mapping[str, str],
) -> Json:
    """Return the one run with the tags *wanted*, making it where there is none.

    Two tasks, or two tries of one request, may make it at the same moment: after making one, look
    again; the oldest stays and the others go to the trash.
    """
    found = client.find_runs(experiment, wanted)
    if not found:
        now = datetime.now(UTC)
        born = {_BORN: now.isoformat(timespec="microseconds")}
        start = start_ms if start_ms is not None else int(now.timestamp() * 1000)
        client.create_run(experiment, name, start, {**wanted, **extra, **born})
        found = client.find_runs(experiment, wanted)
    if not found:
        raise UnavailableError(f"tracking server {client.url} made a run and cannot find it")
    kept, *doubles = sorted(found, key=_age)
    for double in doubles:
        log.warning("MLflow run %s doubles %s: removed", double["info"]["run_id"], dict(wanted))
        client.delete_run(str(double["info"]["run_id"]))
    return kept


def _age(run: Json) -> tuple[str, str]:
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    return tags.get(_BORN, ""), str(run["info"]["run_id"])


def _close(
    client: TrackingClient, run_id: str, status: str, ended_at: str | None, name: str
) -> None:
    state = mapping.STATUS[status]
    if state in {"RUNNING", "SCHEDULED"}:
        return
    end = mapping.moment_ms(ended_at) or int(datetime.now(UTC).timestamp() * 1000)
    client.update_run(run_id, status=state, end_ms=end, name=name)


def _ref(settings: Settings, run: Json) -> MlflowRef:
    info = run["info"]
    experiment, run_id = str(info["experiment_id"]), str(info["run_id"])
    return MlflowRef(
        experiment_id=experiment, run_id=run_id, url=mapping.run_page(settings, experiment, run_id)
    )
