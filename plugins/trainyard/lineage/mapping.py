"""Records to MLflow's vocabulary: pure functions, nothing is sent here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trainer.contract import Metric, RunSpec, encode

if TYPE_CHECKING:
    from trainyard.settings import Settings
    from trainyard.store import RunRow, StudyRow

Json = dict[str, Any]

LONGEST_PARAM = 6000  # MLflow's limits
LONGEST_TAG = 5000
DIGEST_CHARACTERS = 36
KIND = "trainyard.kind"
RUN_ID = "trainyard.run_id"
STUDY_ID = "trainyard.study_id"
STATUS = {
    "completed": "FINISHED",
    "failed": "FAILED",
    "lost": "FAILED",
    "cancelled": "KILLED",
    "running": "RUNNING",
    "planned": "SCHEDULED",
}


def experiment_name(suite: str) -> str:
    """Return the experiment that holds the studies of *suite*."""
    return f"trainyard/{suite or 'single-runs'}"


def run_page(settings: Settings, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page, for a person's browser."""
    return f"{experiment_page(settings, experiment_id)}/runs/{run_id}"


def experiment_page(settings: Settings, experiment_id: str) -> str:
    """Return the address of an experiment's page, for a person's browser."""
    base = (settings.mlflow_public_url or settings.mlflow_url).rstrip("/")
    return f"{base}/#/experiments/{experiment_id}"


def task_page(settings: Settings, row: RunRow) -> str:
    """Return the address of the Airflow task that ran *row*, empty without one."""
    if not (row.dag_id and row.dag_run_id and row.task_id):
        return ""
    mapped = f"/mapped/{row.map_index}" if row.map_index >= 0 else ""
    return f"{dag_run_page(settings, row.dag_id, row.dag_run_id)}/tasks/{row.task_id}{mapped}"


def dag_run_page(settings: Settings, dag_id: str, dag_run_id: str) -> str:
    """Return the address of an Airflow DAG run."""
    base = settings.airflow_public_url.rstrip("/")
    return f"{base}/dags/{quote(dag_id)}/runs/{quote(dag_run_id, safe='')}"


def params(spec: RunSpec) -> dict[str, str]:
    """Return every field of *spec* as text; what is too long is cut and says so."""
    return {f.name: cut(_param(getattr(spec, f.name)), LONGEST_PARAM) for f in fields(spec)}


def _param(value: object) -> str:
    plain = encode(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def cut(text: str, longest: int) -> str:
    """Return *text*, or its beginning and a note of how long the whole is."""
    if len(text) <= longest:
        return text
    note = f" … (cut: {len(text)} characters in all; whole in the artifacts)"
    return text[: longest - len(note)] + note


def run_tags(settings: Settings, row: RunRow) -> dict[str, str]:
    """Return the tags of a training run: identity, verdicts, provenance, units and ways back."""
    result = row.result
    code = result.provenance if result else None
    told = {
        KIND: "run",
        RUN_ID: row.run_id,
        STUDY_ID: row.study_id,
        "trainyard.spec_id": row.spec.spec_id,
        "trainyard.config_id": row.spec.config_id,
        "trainyard.suite": row.suite,
        "trainyard.site": row.site,
        "trainyard.repeat": str(row.repeat),
        "trainyard.dataset_digest": row.spec.dataset_digest,
        "trainyard.status": str(row.status),
        "trainyard.phase": str(row.phase),
        "trainyard.reason": row.reason,
        "trainyard.sane": _yes(result is not None and result.sane),
        "trainyard.comparable": _yes(result is not None and result.comparable),
        "trainyard.flags": ", ".join(flag.value for flag in result.flags) if result else "",
        "trainyard.airflow_url": task_page(settings, row),
        "trainyard.artifacts_uri": row.artifacts_uri,
        "mlflow.source.type": "JOB",
        "mlflow.source.name": "python -m trainer",
        "mlflow.source.git.commit": code.git_commit if code else "",
        "mlflow.note.content": _run_note(settings, row),
    }
    if code:
        told |= {f"trainyard.{n}": str(getattr(code, n)) for n in ("torch", "backend", "device")}
        told["trainyard.git_dirty"] = _yes(code.git_dirty)
    if result and result.machines:
        told["trainyard.hostname"] = result.machines[0].hostname
        told["trainyard.cpu_model"] = result.machines[0].cpu_model
    return _filled(told) | units(result.metrics if result else ())


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _filled(tags: dict[str, str]) -> dict[str, str]:
    return {name: cut(value, LONGEST_TAG) for name, value in tags.items() if value}


def _run_note(settings: Settings, row: RunRow) -> str:
    page = task_page(settings, row)
    lines = [f"Run `{row.run_id}`: **{row.status}**"]
    if row.reason:
        lines.append(f"Reason: {row.reason}")
    if row.result and row.result.flags:
        flags = ", ".join(flag.value for flag in row.result.flags)
        lines.append(f"Not comparable: {flags}")
    if page:
        lines.append(f"[Airflow task]({page})")
    if row.artifacts_uri:
        lines.append(f"All files: `{row.artifacts_uri}`")
    return "\n\n".join(lines)


def units(metrics: Sequence[Metric]) -> dict[str, str]:
    """Return a tag with the unit of every metric; MLflow's metrics have none of their own."""
    known = {f"unit.{key(metric.name)}": metric.unit for metric in metrics}
    if metrics:
        known |= {"unit.window/train/step_time_s": "s", "unit.epoch/seconds": "s"}
    return known


def key(name: str) -> str:
    """Return *name* with what MLflow forbids in a key replaced by ``_``."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)


def run_metrics(row: RunRow) -> list[Json]:
    """Return the run's metrics, and its windows and epochs as series over their index.

    All carry the run's end as their moment, so that recording again adds nothing.
    """
    result = row.result
    if result is None:
        return []
    at = moment_ms(row.end) or 0
    made = summary_metrics(result.metrics, at)
    for window in result.windows:
        seconds = max(window.seconds_by_rank, default=math.nan)
        base = f"window/{window.kind.value}"
        made.append(_metric(f"{base}/step_time_s", _ratio(seconds, window.steps), at, window.index))
        rate = _ratio(window.images, seconds)
        made.append(_metric(f"{base}/images_per_second", rate, at, window.index))
    for epoch in result.epochs:
        for name in ("train_loss", "train_accuracy", "test_accuracy", "seconds"):
            value = getattr(epoch, name)
            if value is not None:
                made.append(_metric(f"epoch/{name}", value, at, epoch.index))
    return made


def summary_metrics(metrics: Sequence[Metric], at_ms: int) -> list[Json]:
    """Return *metrics* as MLflow's, at one moment."""
    return [_metric(key(metric.name), metric.value, at_ms, 0) for metric in metrics]


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def _metric(name: str, value: float, at: int, step: int) -> Json:
    return {"key": name, "value": _number(value), "timestamp": at, "step": step}


def _number(value: float) -> float | str:
    """JSON has no NaN; the server takes these words for the numbers they name."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def dataset_input(settings: Settings, row: RunRow) -> dict[str, str] | None:
    """Return the data set as an MLflow run input, None for synthetic data.

    MLflow holds 36 characters of a digest; the whole one is a tag.
    """
    digest = row.spec.dataset_digest
    if not digest:
        return None
    return {
        "name": row.spec.dataset.value,
        "digest": digest[:DIGEST_CHARACTERS],
        "source_type": "s3",
        "source": json.dumps({"uri": f"s3://{settings.s3_bucket}/datasets/sha256/{digest}"}),
    }


def study_tags(
    settings: Settings, row: StudyRow, dag_id: str, triggered_by: str = ""
) -> dict[str, str]:
    """Return the tags of a study's parent run."""
    page = dag_run_page(settings, dag_id, row.dag_run_id) if dag_id and row.dag_run_id else ""
    lines = [
        f"{row.title or row.study_id}: **{row.status}**",
        row.note,
        f"[Airflow DAG run]({page})" if page else "",
        f"Report: {row.report_uri}" if row.report_uri else "",
    ]
    return _filled(
        {
            KIND: "study",
            STUDY_ID: row.study_id,
            "trainyard.suite": row.suite,
            "trainyard.site": row.site,
            "trainyard.preset": row.preset,
            "trainyard.dataset_digest": row.dataset_digest,
            "trainyard.status": str(row.status),
            "trainyard.airflow_url": page,
            "trainyard.triggered_by": triggered_by,
            "trainyard.report_url": row.report_uri,
            "mlflow.note.content": "\n\n".join(line for line in lines if line),
        }
    )


def study_params(row: StudyRow) -> dict[str, str]:
    """Return what was chosen for a study."""
    names = ("preset", "dataset", "dataset_digest", "repeats", "order_seed", "site")
    return {name: cut(str(getattr(row, name)), LONGEST_PARAM) for name in names}


def moment_ms(value: str | None) -> int | None:
    """Return an ISO 8601 moment (UTC where it has no zone) as milliseconds since 1970."""
    if not value:
        return None
    given = datetime.fromisoformat(value)
    aware = given if given.tzinfo else given.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
