"""Lineage: every study and training run in MLflow, with ways back to Airflow, code and data."""

from __future__ import annotations

from trainyard.lineage.mapping import dag_run_page, experiment_page, run_page, task_page
from trainyard.lineage.record import (
    MlflowRef,
    record_run,
    record_study_end,
    record_study_start,
    replay,
)

__all__ = [
    "MlflowRef",
    "dag_run_page",
    "experiment_page",
    "record_run",
    "record_study_end",
    "record_study_start",
    "replay",
    "run_page",
    "task_page",
]
