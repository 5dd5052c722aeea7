"""``SlurmJobTrigger``: one poller for all, what it tells, whom it ends, what it leaves alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.fakes.airflow_context import TaskInstance
from tests.fakes.slurm_jobs import Life
from tests.fakes.slurm_site import SlurmScene
from trainyard.backends import claims, folder
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.slurm.poller import POLLERS, PollOptions
from trainyard.triggers import cancelling
from trainyard.triggers import slurm as module
from trainyard.triggers.slurm import SlurmJobTrigger


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    made = SlurmScene(tmp_path)
    monkeypatch.setattr(module, "access_of", lambda site: made.access)
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    quick = PollOptions(fast_s=0.01, slow_s=0.02)
    monkeypatch.setattr(type(made.access), "options", lambda self: quick)
    monkeypatch.setattr("trainyard.ingest._publish", lambda settings, paths, row: row)
    return made


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []

    class Log:
        def info(self, text: str, *arguments: object) -> None:
            lines.append(text % arguments)

        warning = error = exception = info

    monkeypatch.setattr(SlurmJobTrigger, "log", Log())
    return lines


def trigger(scene, *, seconds: float = 60, owner: int = 1) -> SlurmJobTrigger:
    made = SlurmJobTrigger(
        plan=scene.reference["plan"],
        run_id=scene.paths.run_id,
        deadline=time.time() + seconds,
        owner=owner,
    )
    made.task_instance = TaskInstance(task_id="run_on_slurm")
    return made


def run(made: SlurmJobTrigger) -> list[dict]:
    async def collect() -> list[dict]:
        try:
            return [event.payload async for event in made.run()]
        finally:
            await POLLERS.close()

    return asyncio.run(asyncio.wait_for(collect(), 20))


def states(monkeypatch, state: str) -> None:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    monkeypatch.setattr(
        RuntimeTaskInstance,
        "get_task_states",
        lambda **asked: {"manual__1": {"run_on_slurm_0": state}},
    )


def claim(scene, try_number: int) -> None:
    task = TaskIdentity(dag_id="study", dag_run_id="manual__1", task_id="run_on_slurm", map_index=0,
                        try_number=try_number)  # fmt: skip
    claims.take(scene.paths, Claim(plan=scene.reference["plan"], index=0, task=task))


def test_another_triggerer_can_make_it_again(scene):
    from airflow.sdk.module_loading import import_string

    path, arguments = trigger(scene).serialize()
    assert path == "trainyard.triggers.slurm.SlurmJobTrigger"
    assert import_string(path)(**arguments).serialize() == (path, arguments)


class TestWatching:
    def test_tells_reason_expected_end_and_output_then_reports_once(self, scene, said):
        scene.lives(Life(wait_s=60, run_s=20, reason="Priority"))
        scene.execute()
        scene.paths.metrics.write_text('{"event": "phase", "name": "train"}\n')
        assert run(trigger(scene)) == [
            {"run_id": scene.paths.run_id, "timed_out": False, "stuck": ""}
        ]
        text = "\n".join(said)
        assert "Job 100: pending: Priority" in text
        assert "Job 100: RUNNING" in text
        assert "phase train" in text
        assert "COMPLETED, exit code 0" in text

    def test_the_worker_needs_no_command_to_read_the_verdict(self, scene, said):
        scene.execute()
        scene.leave_result()
        run(trigger(scene))
        before = scene.cluster.commands.copy()
        scene.leave_result()
        assert scene.complete() == scene.paths.run_id
        asked = scene.cluster.commands - before
        assert set(asked) <= {"sacct", "scontrol", "sacctmgr", "id"}, "only for the accounting"

    def test_another_triggerer_repeats_no_line(self, scene, said):
        scene.lives(Life(run_s=10**6))
        scene.execute()
        scene.paths.metrics.write_text('{"event": "phase", "name": "train"}\n')
        run(trigger(scene, seconds=1))
        with scene.paths.metrics.open("a") as stream:
            stream.write('{"event": "phase", "name": "evaluate"}\n')
        run(trigger(scene, seconds=1))
        assert said.count("phase train") == 1
        assert said.count("phase evaluate") == 1

    def test_after_the_deadline_it_reports_and_ends_nothing(self, scene, said):
        scene.lives(Life(run_s=10**6))
        scene.execute()
        (event,) = run(trigger(scene, seconds=0.3))
        assert event["timed_out"] is True
        assert scene.cluster.jobs[0].cancelled is None

    def test_a_cluster_that_does_not_answer_is_waited_for(self, scene, said, monkeypatch):
        monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.05)
        scene.execute()
        for path in scene.backend().notes.iterdir():
            path.unlink()
        scene.cluster.controller_down = True

        async def outage() -> list[dict]:
            waiting = asyncio.create_task(anext(trigger(scene).run()))
            await asyncio.sleep(0.4)
            scene.cluster.controller_down = False
            event = await asyncio.wait_for(waiting, 15)
            await POLLERS.close()
            return event.payload

        assert asyncio.run(outage())["timed_out"] is False
        assert any("Cannot watch" in line for line in said)

    def test_stopping_the_triggerer_releases_the_watch_and_nothing_else(self, scene, said):
        scene.lives(Life(run_s=10**6))
        scene.execute()

        async def stopped() -> int:
            made = trigger(scene)
            waiting = asyncio.create_task(anext(made.run()))
            await asyncio.sleep(0.3)
            poller = await POLLERS.get(scene.access.name, None)
            assert poller.health.watched == 1
            waiting.cancel("EOF - shutting down")
            await asyncio.gather(waiting, return_exceptions=True)
            await made.cleanup()
            watched = poller.health.watched
            await POLLERS.close()
            return watched

        assert asyncio.run(stopped()) == 0
        assert scene.cluster.jobs[0].cancelled is None
        assert scene.cluster.commands["scancel"] == 0


class TestKills:
    def test_a_kill_cancels_the_job_and_says_by_whom(self, scene, said, monkeypatch):
        states(monkeypatch, "failed")
        scene.lives(Life(run_s=10**6))
        scene.execute()
        asyncio.run(trigger(scene).on_kill())
        assert scene.cluster.jobs[0].cancelled is not None
        assert folder.cancelled(scene.paths).why == "its task was killed in Airflow"

    def test_a_handed_over_trigger_ends_nothing(self, scene, said, monkeypatch):
        states(monkeypatch, "deferred")
        scene.lives(Life(run_s=10**6))
        scene.execute()
        asyncio.run(trigger(scene).on_kill())
        assert scene.cluster.jobs[0].cancelled is None
        assert folder.cancelled(scene.paths) is None

    def test_a_run_adopted_by_a_later_try_goes_on(self, scene, said, monkeypatch):
        states(monkeypatch, "running")
        scene.lives(Life(run_s=10**6))
        scene.execute()
        claim(scene, try_number=2)
        asyncio.run(trigger(scene, owner=1).on_kill())
        assert scene.cluster.jobs[0].cancelled is None

    def test_a_second_cancellation_by_airflow_does_not_stop_the_first(
        self, scene, said, monkeypatch
    ):
        """Airflow 3.3 cancels a killed trigger again each second, which interrupts on_kill."""
        states(monkeypatch, "failed")
        scene.lives(Life(run_s=10**6))
        scene.execute()

        async def interrupted() -> None:
            killing = asyncio.create_task(trigger(scene).on_kill())
            await asyncio.sleep(0.05)
            killing.cancel("__airflow_user_action__")
            await asyncio.gather(killing, return_exceptions=True)
            assert killing.cancelled()
            await asyncio.sleep(1.5)

        asyncio.run(interrupted())
        assert scene.cluster.jobs[0].cancelled is not None

    def test_jobs_killed_together_take_one_command(self, scene):
        from trainyard.slurm.evidence import Target

        names = [f"ty-000000-many-{number}-g0-0000000000" for number in range(50)]
        scene.lives(Life(run_s=10**6))
        for name in names:
            scene.cluster.run(["sbatch", "--parsable", f"--job-name={name}"])
        targets = [
            Target(cluster="fake", job_id=job.job_id, name=job.name) for job in scene.cluster.jobs
        ]

        async def all_at_once() -> list:
            batch = cancelling.batch_for(scene.access)
            return await asyncio.gather(*(batch.cancel(target) for target in targets))

        reports = asyncio.run(all_at_once())
        assert scene.cluster.commands["scancel"] == 1
        assert all(job.cancelled is not None for job in scene.cluster.jobs)
        assert all(report.complete for report in reports)
