"""What Airflow hands to an operator, as far as ours look at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TaskInstance:
    """Identity of a try, and the XComs it pushed."""

    dag_id: str = "study"
    run_id: str = "manual__1"
    task_id: str = "run_on_cpu"
    map_index: int = 0
    try_number: int = 1
    max_tries: int = 2
    pushed: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class TaskStateStore:
    """Key-value store of one task instance; refuses None, as Airflow's does."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        if value is None:
            raise ValueError("Cannot set value as None")
        self.values[key] = value


def context(params: dict[str, Any] | None = None, **identity: Any) -> dict[str, Any]:
    """Return the context of one try."""
    return {
        "ti": TaskInstance(**identity),
        "task_state_store": TaskStateStore(),
        "params": params or {},
    }
