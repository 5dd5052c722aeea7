"""``StudyData``: everything a report is made of, as the store hands it over.

The frames are made complete and typed here, once: a column the store did not have becomes empty,
numbers become numbers, a missing text becomes "". Everything downstream relies on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trainyard.analysis.facts import DatasetFacts, EnvironmentCheck, StudyRecord, plain_text

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
        texts = [plain_text(value) for value in objects.where(objects.notna(), "")]
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
