"""What a person or a crash does to a waiting run, on the real stack: killed where it should be."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.labs import RUNS, until
from trainer.contract import loads
from trainyard.backends import procfs
from trainyard.backends.procfs import ProcessIdentity
from trainyard.paths import RunPaths, run_id_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_BEGUN_S = 3.0  # a triggerer begins a trigger within a second of taking it
CONF = {"dataset": "synthetic", "steps": 100_000}


def procfs_identity(waiting: Waiting) -> ProcessIdentity:
    return loads(ProcessIdentity, waiting.first.process.read_text())


class Waiting:
    """A training run whose task is deferred."""

    def __init__(self, stack, dag_run_id: str) -> None:
        self.stack = stack
        self.dag_run_id = dag_run_id
        until(lambda: stack.api.knows_dag("train"))
        stack.api.trigger("train", CONF, dag_run_id)
        first = run_id_of("train", dag_run_id, "run_on_cpu", 0)
        self.first = RunPaths(root=Path(stack.paths.runs), run_id=first)
        until(lambda: self.state()[0] == "deferred")
        until(self.processes)

    def state(self) -> tuple[str, int]:
        for task in self.stack.api.tasks("train", self.dag_run_id):
            if task.key == ("run_on_cpu", 0):
                return task.state, task.try_number
        return "", 0

    def processes(self, attempt: int = 1) -> dict[int, int]:
        return procfs.members(str(self.first.attempt(attempt).run_dir), None)

    def end(self) -> None:
        self.stack.api.call("PATCH", f"{RUNS}/{self.dag_run_id}", json={"state": "failed"})

    def triggerer(self) -> int | None:
        """Id of the triggerer that has the task's trigger."""
        trigger = self.stack.api.call("GET", self.path)["trigger"]
        return trigger and trigger["triggerer_id"]

    def until_watched(self) -> None:
        until(self.triggerer)
        time.sleep(_BEGUN_S)

    @property
    def path(self) -> str:
        return f"{RUNS}/{self.dag_run_id}/taskInstances/run_on_cpu/0"

    def clear(self) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": self.dag_run_id,
            "task_ids": ["run_on_cpu"],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.stack.api.call("POST", "/api/v2/dags/train/clearTaskInstances", json=body)

    def links(self) -> dict[str, str]:
        path = f"{RUNS}/{self.dag_run_id}/taskInstances/run_on_cpu/links?map_index=0"
        answer = self.stack.api.call("GET", path)
        return answer.get("extra_links", answer)


@pytest.fixture
def waiting(stack, request):
    made = Waiting(stack, f"{request.node.name}-{time.time_ns()}")
    made.until_watched()
    yield made
    made.end()
    until(lambda: not made.processes() and not made.processes(2), 60)


def test_marking_a_waiting_task_as_failed_ends_its_run(stack, waiting):
    stack.api.call("PATCH", waiting.path, json={"new_state": "failed"})
    until(lambda: not waiting.processes(), 30)
    assert waiting.state()[0] == "failed"
    assert "killed in Airflow" in waiting.first.cancelled.read_text()


def test_clearing_a_waiting_task_ends_its_run_and_starts_a_new_one(stack, waiting):
    waiting.clear()
    until(lambda: waiting.state() == ("deferred", 2))
    until(lambda: waiting.processes(2))
    assert not waiting.processes()
    waiting.until_watched()


def test_the_run_outlives_a_killed_triggerer_and_the_next_one_waits_on(stack, waiting):
    from trainyard.local.services import Service

    triggerer = stack.services._running["airflow-triggerer"]
    leader, before = procfs_identity(waiting), waiting.triggerer()
    os.killpg(triggerer.process.pid, signal.SIGKILL)
    triggerer.process.wait()
    stack.services.start(Service(name=triggerer.name, argv=triggerer.argv, env=triggerer.env))
    until(lambda: waiting.triggerer() not in {None, before}, 120)
    waiting.until_watched()
    assert procfs.is_alive(leader)
    assert waiting.state() == ("deferred", 1)
    waiting.end()
    until(lambda: not waiting.processes(), 90)


def test_a_database_that_is_busy_for_seconds_stops_nothing(stack):
    """As where a disk is slow to write: SQLite's own patience is 5 s, then it says "locked"."""
    until(lambda: stack.api.knows_dag("train"))
    dag_run_id = f"busy-{time.time_ns()}"
    busy = sqlite3.connect(stack.paths.airflow_db, isolation_level=None)
    with closing(busy), ThreadPoolExecutor(1) as pool:
        busy.execute("BEGIN IMMEDIATE")
        asked = pool.submit(stack.api.trigger, "train", CONF, dag_run_id)
        time.sleep(8)
        assert not asked.done()
        busy.execute("ROLLBACK")
        assert asked.result() == dag_run_id
    stack.services.check()
    stack.api.call("PATCH", f"{RUNS}/{dag_run_id}", json={"state": "failed"})


def test_a_run_whose_task_was_killed_before_its_trigger_began_is_ended_by_the_next_one(stack):
    """The only moment in which Airflow tells nobody: between deferral and the trigger's start."""
    first = Waiting(stack, f"abandoned-{time.time_ns()}")
    first.end()
    second = Waiting(stack, f"next-{time.time_ns()}")
    assert not first.processes()
    second.until_watched()
    second.end()
    until(lambda: not second.processes(), 60)


def test_a_waiting_task_links_to_its_folder(waiting):
    assert waiting.first.run_dir.as_uri() in waiting.links().values()
