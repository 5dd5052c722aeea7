"""The records beside the frames: the study's row, environment checks, the data set's manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


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
    triggered_by: str = ""
    """Who had the Airflow run, and how; empty: not recorded."""
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


def _known(cls: type[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of *row* that are scalar fields of *cls* and not NULL."""
    names = {item.name for item in fields(cls)} - {"quality"}
    return {
        key: plain_text(value) if isinstance(value, str) else value
        for key, value in row.items()
        if key in names and value is not None
    }


def plain_text(value: object) -> str:
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
        return tuple(plain_text(item) for item in decoded)
    return (value,) if value else ()
