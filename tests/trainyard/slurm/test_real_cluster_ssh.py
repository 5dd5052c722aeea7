"""A real Slurm behind a real sshd: submitted, watched and cancelled without one local command."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from trainer.contract import Dataset, Device, RunSpec
from trainyard.backends.base import State
from trainyard.backends.slurm import SlurmBackend
from trainyard.errors import ConfigurationError
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site
from trainyard.slurm.access import Access
from trainyard.slurm.poller import Poller, PollOptions
from trainyard.slurm.runjob import target_of
from trainyard.slurm.site import SlurmSite
from trainyard.slurm.ssh import SshTransport
from trainyard.slurm.states import Outcome

pytestmark = pytest.mark.slow


class Yard:
    """A site on the cluster, reached through the relay, with a shell in the trainer's place."""

    def __init__(self, folder: Path, cluster, sshd, port: int):
        self.runs, self.sshd, self.port = folder / "runs", sshd, port
        self.python = folder / "python"
        self.python.write_text(f"#!{shutil.which('sh')}\nsleep ${{SECONDS_TO_RUN:-2}}\n")
        self.python.chmod(0o755)
        self.transport = SshTransport.to(
            sshd.login(port), environment={"SLURM_CONF": str(cluster.config.conf)}
        )
        self.access = Access(name="login", transport=lambda: self.transport, remote=True)
        self.site = self._site(str(self.runs), "2")

    def _site(self, runs: str, seconds: str) -> Site:
        return Site(
            name="cluster", launcher=Launcher.SLURM, python=str(self.python), runs_dir=runs,
            data_dir=runs, cores=4, slurm=SlurmSite(partition="main"),
            environment=(("SECONDS_TO_RUN", seconds),),
        )  # fmt: skip

    def start(self, run_id: str, seconds: str = "2") -> tuple[SlurmBackend, RunPaths]:
        paths = RunPaths(root=self.runs, run_id=run_id)
        spec = RunSpec(
            name="tiny", dataset=Dataset.SYNTHETIC, device=Device.CPU, distributed=False,
            evaluate=False, steps=4, warmup_steps=2, window_steps=2, per_rank_batch=8,
            global_batch=8,
        )  # fmt: skip
        site = self._site(str(self.runs), seconds)
        backend = SlurmBackend(site, self.access)
        assert backend.start(launch(spec, site, paths), paths, spec).state is State.RUNNING
        return backend, paths

    async def watch(self, backend: SlurmBackend, paths: RunPaths):
        options = PollOptions(fast_s=0.5, slow_s=1.0, down_s=2.0)
        poller = Poller(backend.client, backend.profile, options=options)
        target = target_of(backend.job(paths), paths, backend.profile.cluster)
        return await asyncio.wait_for(poller.final(target), 120)


@pytest.fixture
def yard(slurm_cluster, sshd, relay, tmp_path):
    made = Yard(tmp_path, slurm_cluster, sshd, relay.port)
    yield made
    made.transport.close()


def test_a_job_is_submitted_and_watched_through_one_connection(yard, relay):
    backend, paths = yard.start("over-ssh")
    verdict = asyncio.run(yard.watch(backend, paths))
    assert verdict.outcome is Outcome.SUCCEEDED
    assert relay.accepted == 1


def test_a_connection_lost_while_the_job_runs_changes_no_verdict(yard, relay):
    backend, paths = yard.start("cut-off", seconds="6")

    async def cut_and_watch():
        watching = asyncio.create_task(yard.watch(backend, paths))
        for _ in range(3):
            await asyncio.sleep(1)
            await asyncio.to_thread(yard.sshd.kill_connections)
        return await watching

    assert asyncio.run(cut_and_watch()).outcome is Outcome.SUCCEEDED
    assert relay.accepted >= 2


def test_a_job_is_cancelled_through_the_login_node(yard, slurm_cluster):
    backend, paths = yard.start("stopped", seconds="60")
    assert backend.cancel(paths, why="test", grace_s=20).state.is_over
    job = backend.job(paths).attempt.job_id
    assert slurm_cluster.ask("squeue", "-h", "-t", "R,PD", "-o", "%i").split().count(str(job)) == 0


def test_run_folders_that_the_login_node_sees_elsewhere_are_refused(yard, monkeypatch):
    """Nothing is submitted whose journal, exit code and logs nobody here would ever see."""
    real = SshTransport.run

    def elsewhere(self, argv, stdin=None, timeout=30):
        moved = [f"/elsewhere{word}" if word.startswith(str(yard.runs)) else word for word in argv]
        return real(self, moved, stdin, timeout)

    monkeypatch.setattr(SshTransport, "run", elsewhere)
    monkeypatch.setattr("trainyard.slurm.shared._PATIENCE_S", 1.0)
    with pytest.raises(ConfigurationError, match="shared by the Airflow workers"):
        yard.start("nowhere")
    assert not RunPaths(root=yard.runs, run_id="nowhere").journal.exists()
