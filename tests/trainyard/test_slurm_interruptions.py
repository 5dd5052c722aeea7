"""Displaced, lost and cancelled Slurm jobs: what goes on, what is ended, and what is left alone."""

from __future__ import annotations

import contextlib

import pytest

from tests.fakes.slurm_campaign import Guillotine, Killed, MortalTransport, mortal_journal
from tests.fakes.slurm_jobs import Life, killed
from tests.fakes.slurm_site import SlurmScene
from trainer.contract import Flag
from trainyard.backends import State, folder
from trainyard.errors import RunFailedError, RunLostError, UnavailableError
from trainyard.slurm.identity import generation_of
from trainyard.slurm.site import SlurmSite


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    monkeypatch.setattr("trainyard.ingest._publish", lambda settings, paths, row: row)
    return lambda **options: SlurmScene(tmp_path, **options)


@pytest.fixture
def scene(make):
    return make()


class TestInterruptions:
    def test_a_preemption_that_cancels_is_submitted_again_in_the_same_folder(self, scene):
        scene.cluster.partitions["main"] = "CANCEL"
        scene.lives(killed("PREEMPTED"))
        scene.execute()
        scene.later()
        scene.settle()
        scene.lives(Life())
        again = scene.complete()
        assert again.trigger.run_id == scene.paths.run_id
        assert [generation_of(name) for name in scene.names()] == [0, 1]
        scene.leave_result()
        scene.later()
        assert scene.complete() == scene.paths.run_id
        assert scene.row().result.flags == (Flag.PREEMPTED,)
        assert scene.row().result.flag_details == ("resubmitted",)

    def test_not_for_ever(self, make):
        scene = make(slurm=SlurmSite(resubmits=2))
        scene.cluster.partitions["main"] = "CANCEL"
        scene.lives(killed("PREEMPTED"))
        scene.execute()
        for _ in range(2):
            scene.later()
            scene.settle()
            scene.complete()
        scene.later()
        scene.settle()
        with pytest.raises(RunLostError):
            scene.complete()
        assert [generation_of(name) for name in scene.names()] == [0, 1, 2]
        assert scene.row().status == "lost"

    def test_a_worker_killed_while_continuing_costs_no_second_job(self, make):
        import shutil

        for step in range(1, 12):
            scene = make()
            shutil.rmtree(scene.paths.run_dir, ignore_errors=True)
            scene.paths.claim.unlink(missing_ok=True)
            scene.cluster.partitions["main"] = "CANCEL"
            scene.lives(killed("PREEMPTED"))
            scene.execute()
            scene.later()
            scene.settle()
            scene.lives(Life())
            guillotine = Guillotine(step)
            with mortal_journal(guillotine), contextlib.suppress(Killed):
                scene.complete(transport=MortalTransport(scene.cluster, guillotine))
            scene.execute(try_number=2)
            assert [generation_of(name) for name in scene.names()] == [0, 1], step

    def test_a_lost_node_is_left_out_next_time(self, scene):
        scene.lives(killed("NODE_FAIL"), requeue=False)
        scene.execute()
        scene.later()
        scene.settle()
        scene.lives(Life())
        scene.complete()
        (sent,) = [argv for argv in scene.cluster.argvs if argv[0] == "sbatch"][1:]
        assert "--exclude=n1" in sent
        assert [bad.node for bad in scene.backend().quarantine.active()] == ["n1"]

    def test_a_run_that_somebody_wants_gone_is_not_continued(self, scene):
        scene.cluster.partitions["main"] = "CANCEL"
        scene.lives(killed("PREEMPTED"))
        scene.execute()
        scene.later()
        scene.settle()
        assert scene.backend().observe(scene.paths).state is State.INTERRUPTED
        seen = scene.backend().cancel(scene.paths, why="not needed")
        assert (seen.state, seen.detail) == (State.CANCELLED, "cancelled: not needed")
        assert len(scene.cluster.jobs) == 1


class TestCancelMatrix:
    """Rows of docs/slurm.md that need no Airflow; tests/e2e/test_slurm.py has the others."""

    def test_a_person_kills_the_task_on_the_worker(self, scene):
        from airflow.sdk.exceptions import TaskDeferred

        scene.lives(Life(run_s=10**6))
        operator = scene.operator()
        with pytest.raises(TaskDeferred):
            operator.execute(scene_context())
        operator.on_kill()
        assert scene.cluster.jobs[0].cancelled is not None
        assert scene.cluster.commands["scancel"] == 1

    def test_the_worker_is_shut_down(self, scene, monkeypatch):
        from airflow.sdk.exceptions import TaskDeferred

        scene.lives(Life(run_s=10**6))
        monkeypatch.setattr("trainyard.operators.standing.state_of", lambda task: "running")
        operator = scene.operator()
        with pytest.raises(TaskDeferred):
            operator.execute(scene_context())
        operator.on_kill()
        assert scene.cluster.jobs[0].cancelled is None
        assert scene.cluster.commands["scancel"] == 0
        assert folder.cancelled(scene.paths) is None

    def test_it_takes_too_long(self, scene):
        scene.lives(Life(run_s=10**6))
        scene.execute()
        with pytest.raises(RunFailedError, match="stopped after 90000 s"):
            scene.complete(timed_out=True)
        assert scene.cluster.jobs[0].cancelled is not None

    def test_too_long_and_the_controller_does_not_answer(self, scene):
        scene.lives(Life(run_s=10**6))
        scene.execute()
        scene.cluster.controller_down = True
        with pytest.raises(UnavailableError, match="trying again later"):
            scene.complete(timed_out=True)
        assert scene.row() is None
        scene.cluster.controller_down = False
        scene.execute(try_number=2)
        assert scene.cluster.jobs[0].cancelled is not None
        assert scene.row().status == "cancelled"

    def test_a_job_whose_id_nobody_learned_is_cancelled_by_its_name(self, scene):
        guillotine = Guillotine(None)
        scene.lives(Life(run_s=10**6))
        backend = scene.backend(MortalTransport(scene.cluster, guillotine))
        assert backend.profile.cluster  # probed before the count begins
        scene.execute()
        text = scene.paths.journal.read_text()
        text = text.replace('"step": "accepted"', '"step": "unknown"')
        scene.paths.journal.write_text(text.replace('"job_id": 100', '"job_id": null'))
        assert scene.backend().observe(scene.paths).state is State.UNKNOWN
        seen = scene.backend().cancel(scene.paths, why="not needed")
        assert seen.state is State.CANCELLED
        assert scene.cluster.jobs[0].cancelled is not None


def scene_context():
    from tests.fakes.airflow_context import context

    return context(task_id="run_on_slurm")
