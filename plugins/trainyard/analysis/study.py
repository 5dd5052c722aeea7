"""``StudyData``: everything a report is made of, as the store hands it over.

The frames are made complete and typed here, once: a column the store did not have becomes empty,
numbers become numbers, a missing text becomes "". Everything downstream relies on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pandas as pd

RUN_TEXT = [
    "run_id",
    "study_id",
    "config_id",
    "spec_id",
    "name",
    "scaling",
    "model",
    "dataset",
    "dataset_digest",
    "precision",
    "status",
    "phase",
    "reason",
    "flags",
    "flag_details",
    "site",
    "hostname",
    "cpu_model",
    "gpu_name",
    "backend",
    "device",
    "git_commit",
    "python",
    "torch",
    "torchvision",
    "numpy",
    "cuda",
    "nccl",
    "started_at",
    "ended_at",
    "mlflow_url",
    "artifacts_uri",
    "parameter_hash",
    "log_tail",
]
RUN_NUMBER = [
    "ranks",
    "nodes",
    "per_rank_batch",
    "accumulation",
    "global_batch",
    "threads_per_rank",
    "seed",
    "repeat",
    "images_per_second",
    "step_time_s",
    "step_time_synthetic_s",
    "step_time_no_sync_s",
    "epoch_time_s",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "peak_memory_bytes",
    "window_cv",
    "rank_imbalance",
    "cpu_busy_cores",
    "windows",
    "train_wall_s",
    "cores_usable",
    "memory_bytes",
    "gpu_count",
]
RUN_BOOL = ["distributed", "sane", "comparable", "git_dirty"]
WINDOW_TEXT = ["run_id", "kind"]
WINDOW_NUMBER = ["idx", "steps", "images", "seconds", "foreign_load"]
EPOCH_TEXT = ["run_id"]
EPOCH_NUMBER = [
    "idx",
    "steps",
    "images",
    "seconds",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
]
CHECK_TEXT = ["run_id", "name", "detail"]
CHECK_BOOL = ["passed"]
# One order whatever the database returns: the same data give the same report, bit for bit.
RUN_ORDER = ["started_at", "run_id"]
WINDOW_ORDER = ["run_id", "kind", "idx"]
EPOCH_ORDER = ["run_id", "idx"]
CHECK_ORDER = ["run_id", "name"]


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyRecord:
    """The study's own row."""

    study_id: str
    """Name of the study."""
    suite: str = ""
    """Suite that planned the runs."""
    site: str = ""
    """Where they ran."""
    title: str = ""
    """Title a person gave; empty: made from the scaling modes."""
    preset: str = ""
    """Preset of the suite, for example demo."""
    dataset: str = ""
    """Data set name."""
    dataset_digest: str = ""
    """SHA-256 of the staged archive."""
    repeats: int = 0
    """Independent runs planned per configuration."""
    order_seed: int | None = None
    """Seed of the randomised run order."""
    plan: str = ""
    """JSON of the planned runs."""
    status: str = ""
    """State of the study when the report was made."""
    created_at: str = ""
    """UTC, ISO 8601."""
    ended_at: str = ""
    """UTC, ISO 8601; empty while it runs."""
    dag_run_id: str = ""
    """Airflow run that made the study."""
    mlflow_url: str = ""
    """Page of the study's MLflow run."""
    airflow_url: str = ""
    """Page of the Airflow run."""
    note: str = ""
    """Free text."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the record of a database row; unknown columns are ignored, NULL is the default."""
        return cls(**_known(cls, row))

    @property
    def planned_runs(self) -> int | None:
        """How many runs were planned, or None when the plan does not say."""
        try:
            plan = json.loads(self.plan or "null")
        except ValueError:
            return None
        if isinstance(plan, dict):
            plan = plan.get("runs")
        return len(plan) if isinstance(plan, list) else None


@dataclass(kw_only=True, slots=True, frozen=True)
class EnvironmentCheck:
    """One check of the machine and its services, made before the study."""

    name: str
    """What was checked."""
    measured: str = ""
    """Value found."""
    requirement: str = ""
    """Value wanted."""
    verdict: str = ""
    """passed, warning, failed or skipped."""
    detail: str = ""
    """What to do about it."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the check of a database row; ``passed`` stands in for a missing verdict."""
        known = _known(cls, row)
        if not known.get("verdict") and row.get("passed") is not None:
            known["verdict"] = "passed" if row["passed"] else "failed"
        return cls(**{"name": "", **{key: str(value) for key, value in known.items()}})


@dataclass(kw_only=True, slots=True, frozen=True)
class DatasetFacts:
    """The data set's manifest, as far as a report shows it."""

    name: str = ""
    """Data set name."""
    digest: str = ""
    """SHA-256 of the staged archive."""
    size_bytes: int = 0
    """Size of the archive."""
    source: str = ""
    """Where it was downloaded."""
    licence: str = ""
    """Licence or terms, as its publisher states them."""
    retrieved_at: str = ""
    """UTC, ISO 8601."""
    object_key: str = ""
    """Key in the object store."""
    train_samples: int = 0
    """Samples to train on; 0 when unknown."""
    test_samples: int = 0
    """Samples to test on; 0 when unknown."""
    quality: tuple[EnvironmentCheck, ...] = ()
    """Quality checks made when it was staged."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the facts of a manifest, or of a row that holds it as JSON in ``manifest``."""
        whole = {**row, **(_decoded(row.get("manifest")) or {})}
        known = _known(cls, whole)
        counts = _counts(_decoded(whole.get("counts")))
        known["train_samples"] = counts.get("train", 0)
        known["test_samples"] = counts.get("test", 0)
        checks = _decoded(whole.get("quality")) or ()
        known["quality"] = tuple(
            EnvironmentCheck.from_row(check) for check in checks if isinstance(check, Mapping)
        )
        return cls(**known)


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyData:
    """One study, ready to analyse. Build it with ``StudyData.of``."""

    study: StudyRecord
    """The study's row."""
    runs: pd.DataFrame
    """One row per run (columns: RUN_TEXT, RUN_NUMBER, RUN_BOOL)."""
    windows: pd.DataFrame
    """One row per timed window."""
    epochs: pd.DataFrame
    """One row per epoch and run."""
    checks: pd.DataFrame
    """One row per sanity check and run."""
    environment: tuple[EnvironmentCheck, ...] = ()
    """Checks of the machine before the study."""
    dataset: DatasetFacts | None = None
    """The data set's manifest, when it was found."""

    @classmethod
    def of(
        cls,
        *,
        study: Mapping[str, Any],
        runs: pd.DataFrame,
        windows: pd.DataFrame | None = None,
        epochs: pd.DataFrame | None = None,
        checks: pd.DataFrame | None = None,
        environment: Iterable[Mapping[str, Any]] = (),
        dataset: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the study with every frame complete and typed; missing frames become empty."""
        return cls(
            study=StudyRecord.from_row(study),
            runs=_typed(runs, RUN_ORDER, text=RUN_TEXT, number=RUN_NUMBER, boolean=RUN_BOOL),
            windows=_typed(windows, WINDOW_ORDER, text=WINDOW_TEXT, number=WINDOW_NUMBER),
            epochs=_typed(epochs, EPOCH_ORDER, text=EPOCH_TEXT, number=EPOCH_NUMBER),
            checks=_typed(checks, CHECK_ORDER, text=CHECK_TEXT, boolean=CHECK_BOOL),
            environment=tuple(EnvironmentCheck.from_row(row) for row in environment),
            dataset=DatasetFacts.from_row(dataset) if dataset else None,
        )


def _known(cls: type[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of *row* that are scalar fields of *cls* and not NULL."""
    names = {item.name for item in fields(cls)} - {"quality"}
    return {
        key: _text(value) if isinstance(value, str) else value
        for key, value in row.items()
        if key in names and value is not None
    }


def _text(value: object) -> str:
    """Return *value* as text that UTF-8 can hold; half a surrogate pair becomes ``?``."""
    return str(value).encode("utf-8", "replace").decode()


def _counts(counts: Any) -> dict[str, int]:
    """Return samples per split of a mapping, or of a list of ``{split, images}``."""
    if isinstance(counts, Mapping):
        return {str(split): int(images or 0) for split, images in counts.items()}
    splits = [item for item in counts or () if isinstance(item, Mapping)]
    return {str(item.get("split")): int(item.get("images") or 0) for item in splits}


def _decoded(value: Any) -> Any:
    """Return *value*, read as JSON when it is a text; None when it is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def texts_of(value: str) -> tuple[str, ...]:
    """Return the texts of a JSON list; anything else becomes one text, nothing becomes none."""
    decoded = _decoded(value)
    if isinstance(decoded, list):
        return tuple(_text(item) for item in decoded)
    return (value,) if value else ()


def _typed(
    frame: pd.DataFrame | None,
    order: list[str],
    *,
    text: Iterable[str],
    number: Iterable[str] = (),
    boolean: Iterable[str] = (),
) -> pd.DataFrame:
    """Return *frame* in *order* with exactly typed columns: object text, float64, bool."""
    import numpy as np
    import pandas as pd

    given = pd.DataFrame() if frame is None else frame
    made: dict[str, Any] = {}
    for name in text:
        column = given[name] if name in given else pd.Series("", index=given.index)
        objects = column.astype(object)
        texts = [_text(value) for value in objects.where(objects.notna(), "")]
        made[name] = pd.Series(texts, index=given.index, dtype=object)
    for name in number:
        column = given[name] if name in given else pd.Series(np.nan, index=given.index)
        numbers = pd.to_numeric(column, errors="coerce").astype("float64")
        made[name] = numbers.where(np.isfinite(numbers))  # an infinite time is no time
    for name in boolean:
        column = given[name] if name in given else pd.Series(0, index=given.index)
        made[name] = pd.to_numeric(column, errors="coerce").fillna(0).astype(bool)
    whole = pd.DataFrame(made, index=given.index)
    return whole.sort_values(order, kind="stable", ignore_index=True)
