"""A real cluster behind a real stack: runs are started, looked at and interfered with here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.labs import Lab, Scenario, until
from tests.fakes.cluster_python import TRAINER, cluster_python
from tests.fixtures.slurm_cluster import throw_away_cluster
from trainyard.slurm.runjob import job_of

if TYPE_CHECKING:
    from trainyard.local.slurm.cluster import Cluster
    from trainyard.local.stack import Stack

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
def running_lab(folder: Path) -> Iterator[SlurmLab]:
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
            yield SlurmLab(cluster, stack, control)


class SlurmScenario(Scenario):
    """One DAG run with one training run in a job."""

    task = "run_on_slurm"
    lab: SlurmLab

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


class SlurmLab(Lab[SlurmScenario]):
    """Cluster, stack, and the orders of the stand-in trainer."""

    scenario = SlurmScenario
    site = "plain"

    def __init__(self, cluster: Cluster, stack: Stack, control: Path) -> None:
        super().__init__(stack, control)
        self.cluster = cluster

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
