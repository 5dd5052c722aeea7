"""A real cluster behind a real stack: runs are started, looked at and interfered with here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.cluster_python import TRAINER, cluster_python
from tests.fixtures.slurm_cluster import throw_away_cluster
from trainyard.paths import RunPaths, run_id_of
from trainyard.slurm.runjob import job_of

RUNS = "/api/v2/dags/train/dagRuns"
SITES = {
    # name: (partition, seconds a run may take, seconds in the queue)
    "plain": ("main", 600, 600),
    "brief": ("main", 8, 4),
    "requeued": ("requeued", 600, 600),
    "displaced": ("displaced", 600, 600),
    "fragile": ("fragile", 600, 600),
    "trained": ("main", 600, 600),
}


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """A cluster of four nodes and a stack whose sites are its partitions.

    The trainer is a stand-in on all of them but ``trained``.
    """
    from trainyard.local.slurm.config import Partition
    from trainyard.local.slurm.site import connection
    from trainyard.local.stack import running_stack
    from trainyard.local.state import toml

    options = {
        "nodes": 4,
        "cpus_per_node": 8,
        "accounting": True,
        "min_job_age_s": 10,
        "preempt_mode": "REQUEUE",
        "partitions": (
            Partition(name="main", nodes=("n1",)),
            Partition(name="requeued", nodes=("n2",), preempt_mode="REQUEUE"),
            Partition(name="displaced", nodes=("n2",), preempt_mode="CANCEL"),
            Partition(name="urgent", nodes=("n2",), priority_tier=10, preempt_mode="OFF"),
            Partition(name="fragile", nodes=("n3", "n4")),
        ),
    }
    control = folder / "control"
    stand_in = cluster_python(control)
    with throw_away_cluster(**options) as cluster:
        tables = ""
        for name, (partition, run_s, queue_s) in SITES.items():
            python = str(TRAINER) if name == "trained" else stand_in
            place = {"launcher": "slurm", "python": python, "cores": 8, "run_timeout_s": run_s}
            place |= {"runs_dir": str(folder / "runs"), "data_dir": str(folder / "data")}
            way = {"connection": "slurm_test", "partition": partition, "queue_limit_s": queue_s}
            way["time_limit_min"] = 10
            tables += f"[{name}]\n{toml(place)}[{name}.slurm]\n{toml(way)}"
        extra = {"AIRFLOW_CONN_SLURM_TEST": connection(cluster.config)}
        with running_stack(folder, extra=extra, more_sites=tables) as stack:
            until(lambda: stack.api.knows_dag("train"))
            until(lambda: stack.api.knows_dag("reconcile_slurm"))
            pool = {"name": "trainyard_slurm", "slots": 32, "include_deferred": True}
            stack.api.call("PATCH", "/api/v2/pools/trainyard_slurm", json=pool)
            yield Lab(cluster, stack, control)


def until(what: Callable[[], Any], seconds: float = 90, why: str = "it") -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"{why} did not happen in {seconds} s"
        time.sleep(0.3)
    return found


class Lab:
    """Cluster, stack, and the orders of the stand-in trainer."""

    def __init__(self, cluster, stack, control: Path) -> None:
        self.cluster = cluster
        self.stack = stack
        self.control = control
        self.seeds = 0

    def start(self, name: str, *words: str, site: str = "plain") -> Scenario:
        self.seeds += 1
        (self.control / str(self.seeds)).write_text("\n".join(words))
        conf = {"site": site, "dataset": "synthetic", "ranks": [1], "steps": 20,
                "threads_per_rank": 1, "loader_workers": 0, "base_seed": self.seeds}  # fmt: skip
        self.stack.api.trigger("train", conf, name)
        return Scenario(self, name, self.seeds)

    def end_of(self, dag_id: str, run_id: str, seconds: float = 90) -> str:
        """Wait for the end of a DAG run and return its state."""

        def ended() -> str:
            state = self.stack.api.run(dag_id, run_id)["state"]
            return state if state in {"success", "failed"} else ""

        return until(ended, seconds, f"the end of {dag_id} {run_id}")

    def ask(self, question: str, **values: Any) -> list[dict[str, Any]]:
        """The rows that answer a named question to the results database."""
        from trainyard.store import open_store

        with open_store(f"sqlite:///{self.stack.paths.results_db}") as store:
            return store.query(question, **values)

    def reconciled(self, check: str) -> str:
        """What the last reconciliation stored about one kind of finding."""
        rows = self.ask("environment_latest", site="plain (reconciliation)")
        return next(row["detail"] for row in rows if row["name"] == check)

    def jobs(self, name: str) -> list[list[str]]:
        """Every attempt of jobs of that name that accounting or the controller knows."""
        rows = self.cluster.ask(
            "sacct", "-nPX", "--duplicates", "-S", "now-1hour", f"--name={name}",
            "-o", "jobid,state,exitcode",
        )  # fmt: skip
        return [row.split("|") for row in rows.splitlines()]


class Scenario:
    """One DAG run with one training run."""

    task = "run_on_slurm"

    def __init__(self, lab: Lab, dag_run_id: str, seed: int) -> None:
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

    def until_training(self, times: int = 1) -> Scenario:
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

    def job(self, attempt: int = 1):
        paths = self.paths.attempt(attempt)
        return job_of(paths, str(paths.root))

    def job_state(self, attempt: int = 1) -> str:
        """The controller's or accounting's word for the newest attempt."""
        job = self.job(attempt).attempt
        shown = self.lab.cluster.run("squeue", "-h", "-t", "all", "-j", str(job.job_id), "-o", "%T")
        if shown.stdout.strip():
            return shown.stdout.strip()
        return self.lab.jobs(job.key)[-1][1].split()[0]

    def row(self, attempt: int = 1):
        from trainyard.store import open_store

        with open_store(f"sqlite:///{self.lab.stack.paths.results_db}") as store:
            return store.run(self.paths.attempt(attempt).run_id)

    def usage(self):
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
