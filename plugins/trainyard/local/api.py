"""A small client of Airflow's REST API: what the demo and the benchmarks need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from trainyard.errors import UnavailableError

_PAGE = 100


@dataclass(kw_only=True, slots=True, frozen=True)
class TaskState:
    """One task instance as the API shows it."""

    task_id: str
    map_index: int
    label: str
    state: str
    try_number: int
    start: str | None
    end: str | None
    queued: str | None

    @property
    def key(self) -> tuple[str, int]:
        """Identity within one DAG run."""
        return (self.task_id, self.map_index)


class AirflowApi:
    """Talks to one Airflow as one user; use as a context manager."""

    def __init__(self, url: str, username: str, password: str) -> None:
        """Remember where and who; the token is fetched at first use."""
        self._client = httpx.Client(base_url=url, timeout=30)
        self._login = {"username": username, "password": password}
        self._token = ""

    def __enter__(self) -> AirflowApi:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON answer of one call, or raise with Airflow's own words."""
        if not self._token:
            answer = self._client.post("/auth/token", json=self._login)
            if answer.status_code != httpx.codes.CREATED:
                raise UnavailableError(f"Airflow refused the login of {self._login['username']!r}")
            self._token = answer.json()["access_token"]
        head = {"Authorization": f"Bearer {self._token}"}
        answer = self._client.request(method, path, headers=head, **options)
        if answer.is_error:
            raise UnavailableError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def healthy(self) -> bool:
        """Return whether database, scheduler, triggerer and DAG processor all report health."""
        try:
            answer = self._client.get("/api/v2/monitor/health")
        except httpx.HTTPError:
            return False
        if answer.is_error:
            return False
        parts = answer.json()
        wanted = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all(parts.get(part, {}).get("status") == "healthy" for part in wanted)

    def knows_dag(self, dag_id: str) -> bool:
        """Return whether the DAG has been parsed and stored."""
        try:
            self.call("GET", f"/api/v2/dags/{dag_id}")
        except UnavailableError:
            return False
        return True

    def trigger(self, dag_id: str, conf: dict[str, Any], run_id: str | None = None) -> str:
        """Unpause and start a DAG; return the DAG run's id."""
        self.call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})
        body: dict[str, Any] = {"logical_date": None, "conf": conf}
        if run_id:
            body["dag_run_id"] = run_id
        answer = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        return str(answer["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return the DAG run as the API shows it."""
        found: dict[str, Any] = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Return every task instance of a DAG run."""
        found: list[TaskState] = []
        while True:
            page = self.call(
                "GET",
                f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances",
                params={"limit": _PAGE, "offset": len(found), "order_by": "id"},
            )
            found += [_task(item) for item in page["task_instances"]]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return one XCom value of an unmapped task."""
        base = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return self.call("GET", f"{base}/xcomEntries/{key}", params={"deserialize": True})["value"]


def _task(item: dict[str, Any]) -> TaskState:
    label = item.get("rendered_map_index") or ""
    return TaskState(
        task_id=item["task_id"],
        map_index=item["map_index"],
        label=str(label),
        state=item["state"] or "waiting",
        try_number=item["try_number"],
        start=item["start_date"],
        end=item["end_date"],
        queued=item.get("queued_when"),
    )
