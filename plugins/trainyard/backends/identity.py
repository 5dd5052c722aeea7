"""Who acts on a run: one try of one Airflow task instance, as plain records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True, frozen=True)
class TaskIdentity:
    """Which try of which Airflow task instance acts."""

    dag_id: str
    """DAG."""
    dag_run_id: str
    """DAG run."""
    task_id: str
    """Task."""
    map_index: int = -1
    """Map index, -1 for a task that is not mapped."""
    try_number: int = 1
    """Try, from 1."""

    def is_same_task(self, other: TaskIdentity) -> bool:
        """Say whether both are tries of one task instance."""
        mine = (self.dag_id, self.dag_run_id, self.task_id, self.map_index)
        return mine == (other.dag_id, other.dag_run_id, other.task_id, other.map_index)


@dataclass(kw_only=True, slots=True, frozen=True)
class Claim:
    """One try waits for one run."""

    plan: str
    """Path of the study's plan.json."""
    index: int
    """Place of the run in the plan."""
    task: TaskIdentity
    """The try that waits."""
    deferred: bool = False
    """It waits in the triggerer: no worker can have died over it, so a later try of the same task
    means that somebody cleared it."""
