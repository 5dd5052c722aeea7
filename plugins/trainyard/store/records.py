"""Rows to columns and back: what is copied out of the records, and what stays their own JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from trainer.contract import RunResult, RunSpec, Window, WindowKind, decode, encode, loads
from trainyard.store.rows import (
    AuditRow,
    EnvironmentCheck,
    RunRow,
    StudyRow,
    moment,
    precedence,
    text,
)

Columns = dict[str, Any]

SPEC_COLUMNS = (
    "name", "scaling", "model", "dataset", "dataset_digest", "precision", "ranks", "nodes",
    "distributed", "per_rank_batch", "accumulation", "global_batch", "threads_per_rank", "seed",
)  # fmt: skip
METRIC_COLUMNS = (
    "images_per_second", "step_time_s", "step_time_synthetic_s", "step_time_no_sync_s",
    "epoch_time_s", "train_loss", "train_accuracy", "test_accuracy", "peak_memory_bytes",
    "window_cv", "rank_imbalance", "cpu_busy_cores", "train_wall_s",
)  # fmt: skip
PROVENANCE_COLUMNS = (
    "backend", "device", "git_commit", "python", "torch", "torchvision", "numpy", "cuda", "nccl",
)  # fmt: skip
MACHINE_COLUMNS = ("hostname", "cpu_model")
AIRFLOW_COLUMNS = ("dag_id", "dag_run_id", "task_id", "map_index", "try_number")
LINK_COLUMNS = ("mlflow_run_id", "mlflow_url", "artifacts_uri")
# Parts of a result that have tables of their own; the rest stays in the column `result`.
_TABLED = ("sanity", "flags", "flag_details", "metrics", "windows", "epochs")


def run_columns(row: RunRow) -> Columns:
    """Return the columns of table ``runs`` for *row*."""
    result = row.result
    return {
        "run_id": row.run_id,
        "study_id": row.study_id or None,
        **{name: text(getattr(row, name)) for name in ("site", "launcher", "suite")},
        "status": str(row.status),
        "precedence": precedence(row.status, has_result=result is not None),
        "phase": _phase(row),
        "reason": text(row.reason or (result.reason if result else "")),
        "log_tail": text(row.log_tail),
        "exit_code": row.exit_code,
        "repeat": row.repeat,
        "spec": json_text(row.spec),
        "spec_id": row.spec.spec_id,
        "config_id": row.spec.config_id,
        **{name: encode(getattr(row.spec, name)) for name in SPEC_COLUMNS},
        **_result_columns(result),
        "submitted_at": moment(row.submitted_at, "submitted_at"),
        "ended_at": moment(row.end, "ended_at"),
        **{name: getattr(row, name) for name in AIRFLOW_COLUMNS},
        **{name: getattr(row, name) for name in LINK_COLUMNS},
    }


def _phase(row: RunRow) -> str:
    return str(row.phase or (row.result.phase.value if row.result else ""))


def _result_columns(result: RunResult | None) -> Columns:
    flags = [flag.value for flag in result.flags] if result else []
    details = [text(detail) for detail in result.flag_details] if result else []
    trained = [w for w in result.windows if w.kind is WindowKind.TRAIN] if result else []
    rest = {k: v for k, v in encode(result).items() if k not in _TABLED} if result else None
    return {
        "result": None if rest is None else json_text(rest),
        "sane": bool(result and result.sane),
        "comparable": bool(result and result.comparable),
        "flags": json_text(flags),
        "flag_details": json_text(details),
        **{name: result.metric(name) if result else None for name in METRIC_COLUMNS},
        "windows": len(trained),
        "parameter_hash": result.parameter_hash if result else "",
        **_machine_columns(result),
        **_provenance_columns(result),
    }


def _machine_columns(result: RunResult | None) -> Columns:
    first = result.machines[0] if result and result.machines else None
    gpus = [gpu for machine in result.machines for gpu in machine.gpus] if result else []
    return {
        **{name: text(getattr(first, name)) if first else "" for name in MACHINE_COLUMNS},
        "cores_usable": first.cores_usable if first else None,
        "memory_bytes": first.memory_bytes if first else None,
        "gpu_name": text(gpus[0].name) if gpus else "",
        "gpu_count": len(gpus),
    }


def _provenance_columns(result: RunResult | None) -> Columns:
    found = result.provenance if result else None
    return {
        **{name: text(getattr(found, name)) if found else "" for name in PROVENANCE_COLUMNS},
        "git_dirty": found.git_dirty if found else None,
        "started_at": moment(found.started_at, "started_at") if found else None,
    }


def run_children(row: RunRow) -> dict[str, list[Columns]]:
    """Return the rows of every child table for *row*, by table name."""
    result = row.result
    if result is None:
        return {table: [] for table in CHILD_TABLES}
    details = [*result.flag_details, *[""] * len(result.flags)]
    made: dict[str, list[Columns]] = {
        "run_metrics": [encode(metric) | {"value": metric.value} for metric in result.metrics],
        "run_windows": [_window(place, one) for place, one in enumerate(result.windows)],
        "run_epochs": [
            {f.name: getattr(epoch, f.name) for f in fields(epoch) if f.name != "index"}
            | {"idx": epoch.index}
            for epoch in result.epochs
        ],
        "run_flags": [
            {"flag": flag.value, "detail": text(detail)}
            for flag, detail in zip(result.flags, details, strict=False)
        ],
        "run_checks": [
            {"name": check.name, "passed": check.passed, "detail": text(check.detail)}
            for check in result.sanity
        ],
    }
    return {
        table: [
            {"run_id": row.run_id, "idx": place} | columns for place, columns in enumerate(rows)
        ]
        for table, rows in made.items()
    }


def _window(place: int, window: Window) -> Columns:
    return {
        "place": place,
        "kind": window.kind.value,
        "idx": window.index,
        "steps": window.steps,
        "images": window.images,
        "seconds": max(window.seconds_by_rank, default=math.nan),
        "seconds_by_rank": json_text(window.seconds_by_rank),
        "foreign_load": window.foreign_load,
    }


CHILD_TABLES = ("run_metrics", "run_windows", "run_epochs", "run_flags", "run_checks")


def run_row(
    columns: Mapping[str, Any], children: Mapping[str, Sequence[Mapping[str, Any]]]
) -> RunRow:
    """Return the record that ``run_columns`` and ``run_children`` took apart."""
    copied = {f.name: columns[f.name] for f in fields(RunRow) if f.name not in {"spec", "result"}}
    copied["study_id"] = copied["study_id"] or ""
    return RunRow(
        **copied,
        spec=loads(RunSpec, columns["spec"], f"spec of run {columns['run_id']}"),
        result=None if columns["result"] is None else _result(columns, children),
    )


def _result(
    columns: Mapping[str, Any], children: Mapping[str, Sequence[Mapping[str, Any]]]
) -> RunResult:
    data = json.loads(columns["result"]) | {
        "sanity": [_pick(c, "name", "passed", "detail") for c in children["run_checks"]],
        "flags": [flag["flag"] for flag in children["run_flags"]],
        "flag_details": json.loads(columns["flag_details"]),
        "metrics": [_pick(m, "name", "value", "unit") for m in children["run_metrics"]],
        "windows": [
            _pick(w, "kind", "steps", "images", "foreign_load")
            | {"index": w["idx"], "seconds_by_rank": json.loads(w["seconds_by_rank"])}
            for w in children["run_windows"]
        ],
        "epochs": [
            {key: e[key] for key in e if key != "idx"} | {"index": e["idx"]}
            for e in children["run_epochs"]
        ],
    }
    return decode(RunResult, data, f"result of run {columns['run_id']}")


def _pick(row: Mapping[str, Any], *names: str) -> Columns:
    return {name: row[name] for name in names}


def check_columns(place: int, check: EnvironmentCheck) -> Columns:
    """Return the columns of table ``environment_checks`` for the check at *place*."""
    values = {f.name: text(str(getattr(check, f.name))) for f in fields(check)}
    return values | {"idx": place, "checked_at": moment(check.checked_at, "checked_at")}


_JOB_TEXTS = ("cluster", "state", "node_list", "source")
_JOB_NUMBERS = (
    "attempt", "job_id", "elapsed_s", "cpu_s", "cpu_used_s", "gpu_s", "max_rss_bytes", "energy_j",
)  # fmt: skip


def job_columns(job: Mapping[str, Any]) -> Columns:
    """Return the columns of table ``run_jobs`` for one attempt of a cluster job."""
    return {name: text(str(job[name])) for name in _JOB_TEXTS} | {
        name: job[name] for name in _JOB_NUMBERS
    }


def audit_columns(row: AuditRow) -> Columns:
    """Return the columns of table ``dag_run_audit`` for *row*."""
    values = {f.name: getattr(row, f.name) for f in fields(row)}
    cleaned = {k: text(str(v)) if isinstance(v, str) else v for k, v in values.items()}
    moments = {name: moment(values[name], name) for name in ("queued_at", "started_at", "ended_at")}
    return cleaned | moments | {"conf": json_text(row.conf or {})}


def study_columns(row: StudyRow) -> Columns:
    """Return the columns of table ``studies`` for *row*."""
    values = {f.name: getattr(row, f.name) for f in fields(row)}
    cleaned = {k: text(str(v)) if isinstance(v, str) else v for k, v in values.items()}
    return cleaned | {
        "plan": json_text(row.plan),
        "created_at": moment(row.created_at, "created_at"),
        "ended_at": moment(row.ended_at, "ended_at"),
    }


def study_row(columns: Mapping[str, Any]) -> StudyRow:
    """Return the record that ``study_columns`` took apart."""
    return StudyRow(**{**columns, "plan": json.loads(columns["plan"])})


def json_text(value: object) -> str:
    """Return *value* as compact JSON text that both databases can hold."""
    return text(json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def plain(value: object) -> Any:
    """Return *value* as JSON-ready data; unlike ``encode`` it also looks into mappings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return plain(encode(value)) if is_dataclass(value) else encode(value)
