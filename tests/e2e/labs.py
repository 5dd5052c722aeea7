"""A real stack with a stand-in trainer: runs are started, looked at and interfered with here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from trainyard.paths import RunPaths, run_id_of

if TYPE_CHECKING:
    from trainyard.local.stack import Stack
    from trainyard.store import RunRow, Store

RUNS = "/api/v2/dags/train/dagRuns"
S = TypeVar("S", bound="Scenario")


def until(what: Callable[[], Any], seconds: float = 90, why: str = "it") -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"{why} did not happen in {seconds} s"
        time.sleep(0.3)
    return found


class Lab(Generic[S]):
    """A stack, and the orders of the stand-in trainer."""

    scenario: type[S]
    site: str

    def __init__(self, stack: Stack, control: Path) -> None:
        self.stack = stack
        self.control = control
        self.seeds = 0

    def start(self, name: str, *words: str, site: str = "") -> S:
        """Trigger a run on *site* (the lab's own when empty); the trainer does as *words* say."""
        self.seeds += 1
        (self.control / str(self.seeds)).write_text("\n".join(words))
        conf = {"site": site or self.site, "dataset": "synthetic", "ranks": [1], "steps": 20,
                "threads_per_rank": 1, "loader_workers": 0, "base_seed": self.seeds}  # fmt: skip
        self.stack.api.trigger("train", conf, name)
        return self.scenario(self, name, self.seeds)

    def end_of(self, dag_id: str, run_id: str, seconds: float = 90) -> str:
        """Wait for the end of a DAG run and return its state."""

        def ended() -> str:
            state = self.stack.api.run(dag_id, run_id)["state"]
            return state if state in {"success", "failed"} else ""

        return until(ended, seconds, f"the end of {dag_id} {run_id}")

    def ask(self, question: str, **values: Any) -> list[dict[str, Any]]:
        """The rows that answer a named question to the results database."""
        with self._store() as store:
            return store.query(question, **values)

    def row(self, run_id: str) -> RunRow | None:
        with self._store() as store:
            return store.run(run_id)

    def _store(self) -> AbstractContextManager[Store]:
        from trainyard.store import open_store

        return open_store(f"sqlite:///{self.stack.paths.results_db}")


class Scenario:
    """One DAG run with one training run."""

    task: str

    def __init__(self, lab: Lab[Any], dag_run_id: str, seed: int) -> None:
        self.lab = lab
        self.api = lab.stack.api
        self.dag_run_id = dag_run_id
        self.seed = seed
        run_id = run_id_of("train", dag_run_id, self.task, 0)
        self.paths = RunPaths(root=lab.stack.paths.runs, run_id=run_id)

    @property
    def path(self) -> str:
        return f"{RUNS}/{self.dag_run_id}/taskInstances/{self.task}/0"

    def state(self) -> str:
        for task in self.api.tasks("train", self.dag_run_id):
            if task.key == (self.task, 0):
                return task.state
        return ""

    def until(self, *states: str, seconds: float = 120) -> str:
        return until(
            lambda: (now := self.state()) in states and now, seconds, f"{self.dag_run_id}: {states}"
        )

    def until_training(self, times: int = 1) -> Self:
        until(lambda: len(self.starts()) >= times, 90, f"{self.dag_run_id}: start {times}")
        self.until("deferred")
        return self

    def starts(self) -> list[str]:
        file = self.lab.control / f"{self.seed}.starts"
        return file.read_text().splitlines() if file.exists() else []

    def clear(self) -> None:
        body = {"dry_run": False, "dag_run_id": self.dag_run_id, "task_ids": [self.task],
                "only_failed": False, "reset_dag_runs": True}  # fmt: skip
        self.api.call("POST", "/api/v2/dags/train/clearTaskInstances", json=body)

    def go(self) -> None:
        (self.lab.control / f"{self.seed}.go").touch()

    def row(self, attempt: int = 1) -> RunRow | None:
        return self.lab.row(self.paths.attempt(attempt).run_id)

    def usage(self) -> list[dict[str, Any]]:
        return self.lab.ask("run_jobs", run_id=self.paths.run_id)

    def log(self) -> str:
        """The log of the newest try: a busy scheduler may have counted one that never began."""
        found = self.api.tasks("train", self.dag_run_id)
        number = next(task.try_number for task in found if task.key == (self.task, 0))
        text, token = "", None
        for _ in range(20):
            params = {"full_content": True, "map_index": 0} | ({"token": token} if token else {})
            base = f"{RUNS}/{self.dag_run_id}/taskInstances/{self.task}/logs/{number}"
            answer = self.api.call("GET", base, params=params)
            text += json.dumps(answer["content"])
            token = answer.get("continuation_token")
            if not token:
                return text
        return text
