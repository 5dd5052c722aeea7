"""Airflow's own cost per task: a chain of tasks that do nothing, run beside the measured DAG."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import chain, dag, task

LENGTH = 20


@dag(
    dag_id="benchmark_floor",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    schedule=None,
    tags=["benchmark"],
)
def benchmark_floor() -> None:
    @task
    def nothing() -> None:
        return

    chain(*[nothing.override(task_id=f"nothing_{place:02d}")() for place in range(LENGTH)])


benchmark_floor()
