"""A Slurm site on the fake cluster: a planned run, its backend in simulated time, its tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fakes.airflow_context import context
from tests.fakes.runs import result, site
from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_jobs import Life, Plan
from tests.fixtures.settings import make_settings
from trainer.contract import Dataset, dumps
from trainyard.backends.identity import TaskIdentity
from trainyard.backends.slurm import SlurmBackend
from trainyard.presets import PRESETS, Preset
from trainyard.sites import Launcher
from trainyard.slurm.access import Access
from trainyard.slurm.site import SlurmSite
from trainyard.slurm.submit import SubmitPatience
from trainyard.slurm.transport import Completed
from trainyard.store import migrate, open_store
from trainyard.study import make_study, references, write_study


class NodesCluster(FakeCluster):
    """Also lists its nodes, and lets a second pass with every command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.nodes = [f"n{number}" for number in range(1, 9)]

    def run(self, argv: Sequence[str], stdin: str | None = None, timeout: float = 30) -> Completed:
        self.clock.sleep(1)
        return super().run(argv, stdin, timeout)

    def do_sinfo(self, arguments: list[str]) -> Completed:
        from trainyard.slurm.parse import FIELD, ROW

        rows = [FIELD.join((name, "idle", "none", ROW)) for name in self.nodes]
        return Completed(rc=0, stdout="\n".join(rows) + "\n", stderr="", elapsed=0.0)


class SlurmScene:
    """One planned run on a fake cluster, a results database, and tries of its task."""

    def __init__(self, folder: Path, *, slurm: SlurmSite | None = None, **options: Any) -> None:
        self.folder = folder
        self.settings = make_settings(folder)
        with open_store(self.settings.results_url) as store:
            migrate(store)
        self.cluster = NodesCluster(**options)
        self.access = Access(
            name=str(folder),
            transport=lambda: self.cluster,
            commands_per_s=10_000,
            least_poll_s=0.01,
        )
        place = site(
            folder, launcher=Launcher.SLURM, slurm=slurm or SlurmSite(), run_timeout_s=3600
        )
        self.study = make_study(
            "single",
            replace(PRESETS[Preset.DEMO](), dataset=Dataset.SYNTHETIC),
            place,
            identity=TaskIdentity(dag_id="study", dag_run_id="manual__1", task_id="plan"),
            task_id="run_on_slurm",
            in_study=False,
        )
        self.run = self.study.run(0)
        self.paths = self.run.paths
        self.reference = references(write_study(self.study), self.study)[0]
        self.lives(Life())

    def lives(self, *lives: Life, **more: Any) -> None:
        """Set what jobs submitted from now on go through."""
        self.cluster.default_plan = Plan(lives=lives, run_dir=self.paths.run_dir, **more)

    def backend(self, transport: Any = None, **options: Any) -> SlurmBackend:
        access = replace(self.access, transport=lambda: transport) if transport else self.access
        clock = self.cluster.clock
        patience = SubmitPatience(visible_s=5.0, give_up_s=10.0)
        options = {"clock": clock, "sleep": clock.sleep, "submit_patience": patience} | options
        return SlurmBackend(self.study.site, access, **options)

    def operator(self, transport: Any = None):
        from trainyard.operators.launch import TrainOperator

        made = TrainOperator(task_id="run_on_slurm", planned=self.reference)
        made.__dict__["_backend"] = self.backend(transport)
        return made

    def execute(self, try_number: int = 1, transport: Any = None):
        """Return what ``execute`` gives, or the deferral it raises."""
        from airflow.sdk.exceptions import TaskDeferred

        self.context = context(try_number=try_number, task_id="run_on_slurm")
        try:
            return self.operator(transport).execute(self.context)
        except TaskDeferred as deferred:
            return deferred

    def complete(self, *, try_number: int = 1, transport: Any = None, **event: Any):
        from airflow.sdk.exceptions import TaskDeferred

        self.context = context(try_number=try_number, task_id="run_on_slurm")
        event = {"run_id": self.paths.run_id, "timed_out": False, "stuck": ""} | event
        try:
            return self.operator(transport).execute_complete(self.context, event)
        except TaskDeferred as deferred:
            return deferred

    def leave_result(self, **changes: Any) -> None:
        made = result(self.paths.run_id, self.run.planned.spec, **changes)
        self.paths.run_dir.mkdir(parents=True, exist_ok=True)
        self.paths.result.write_text(dumps(made))

    def later(self, seconds: float = 3600.0) -> None:
        """Let simulated time pass and the wrapper write what it would have written."""
        self.cluster.clock.sleep(seconds)
        self.cluster.advance()

    def settle(self) -> None:
        """Look as a watcher does until the newest job has its final verdict."""
        for _ in range(60):
            backend = self.backend()
            backend.observe(self.paths)
            if backend.job(self.paths).verdict is not None:
                return
            self.cluster.clock.sleep(30)
        raise AssertionError("no verdict")

    def row(self, attempt: int = 1):
        with open_store(self.settings.results_url) as store:
            return store.run(self.paths.attempt(attempt).run_id)

    def names(self) -> list[str]:
        return [job.name for job in self.cluster.jobs]
