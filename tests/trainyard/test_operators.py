"""``TrainOperator``: every way in which a try can find its run, and how it tells Airflow."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fakes import trainers
from tests.fakes.airflow_context import context
from tests.fakes.runs import result, site
from tests.fixtures.settings import make_settings
from trainer.contract import Dataset, Status, dumps, loads
from trainyard.backends import State, claims, folder, open_backend
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.backends.procfs import ProcessIdentity, stat
from trainyard.errors import (
    ConfigurationError,
    RunCancelledError,
    RunFailedError,
    RunLostError,
    UnavailableError,
)
from trainyard.launch import launch
from trainyard.presets import PRESETS, Preset
from trainyard.sites import Site
from trainyard.store import migrate, open_store
from trainyard.study import make_study, references, write_study


class Scene:
    """One planned run, a stand-in for its trainer, a results database, and tries of its task."""

    def __init__(self, folder_: Path, place: Site | None = None) -> None:
        self.folder = folder_
        self.settings = make_settings(folder_)
        with open_store(self.settings.results_url) as store:
            migrate(store)
        parameters = replace(PRESETS[Preset.DEMO](), dataset=Dataset.SYNTHETIC)
        identity = TaskIdentity(dag_id="study", dag_run_id="manual__1", task_id="plan")
        self.study = make_study(
            "single",
            parameters,
            place or site(folder_, str(folder_ / "stand-in"), run_timeout_s=600),
            identity=identity,
            task_id="run_on_cpu",
            in_study=False,
        )
        self.run = self.study.run(0)
        self.backend = open_backend(self.study.site)
        self.reference = references(write_study(self.study), self.study)[0]

    def trainer(self, body: str) -> None:
        trainers.trainer(self.folder, body)

    def good_result(self, attempt: int = 1, **changes) -> str:
        path = self.folder / f"result-{attempt}.json"
        run_id = self.run.paths.attempt(attempt).run_id
        path.write_text(dumps(result(run_id, self.run.planned.spec, **changes)))
        return trainers.leaves(path)

    def operator(self):
        from trainyard.operators.launch import TrainOperator

        return TrainOperator(task_id="run_on_cpu", planned=self.reference, retries=2)

    def execute(self, try_number: int = 1, cleared: int = 0):
        """Return what ``execute`` gives, or the deferral it raises; *cleared*: after which try."""
        from airflow.sdk.exceptions import TaskDeferred

        try:
            return self.operator().execute(context(try_number=try_number, max_tries=cleared + 2))
        except TaskDeferred as deferred:
            return deferred

    def worker_died_before_deferring(self) -> None:
        paths = self.run.paths
        claims.take(paths, replace(folder.claim_of(paths), deferred=False))

    def complete(self, deferred, *, timed_out: bool = False, try_number: int = 1):
        event = {"run_id": deferred.trigger.run_id, "state": "exited", "timed_out": timed_out}
        return self.operator().execute_complete(context(try_number=try_number), event)

    def until_over(self, attempt: int = 1):
        end = time.monotonic() + 10
        paths = self.run.paths.attempt(attempt)
        while not (seen := self.backend.observe(paths)).state.is_over:
            assert time.monotonic() < end
            time.sleep(0.02)
        return seen

    def pid(self, attempt: int = 1) -> int:
        text = self.run.paths.attempt(attempt).process.read_text()
        return loads(ProcessIdentity, text).pid

    def rows(self) -> dict[str, str]:
        with open_store(self.settings.results_url) as store:
            found = store.query("runs_of_dag_run", dag_id="study", dag_run_id="manual__1")
        return {row["run_id"]: row["status"] for row in found}

    def row(self, attempt: int = 1):
        with open_store(self.settings.results_url) as store:
            return store.run(self.run.paths.attempt(attempt).run_id)


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Iterator[Scene]:
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    # Object store and tracking server have tests of their own; the DAG tests use real ones.
    monkeypatch.setattr("trainyard.ingest._publish", lambda settings, paths, row: row)
    made = Scene(tmp_path)
    yield made
    for attempt in range(1, folder.newest_attempt(made.run.paths) + 1):
        made.backend.sweep(made.run.paths.attempt(attempt))


class TestDeferral:
    def test_starts_the_run_and_waits_without_a_worker(self, scene):
        scene.trainer(trainers.SLEEPS)
        operator = scene.operator()
        given = context()
        from airflow.sdk.exceptions import TaskDeferred

        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(given)
        trigger = deferred.value.trigger
        assert deferred.value.method_name == "execute_complete"
        assert trigger.run_id == scene.run.paths.run_id
        assert trigger.owner == 1
        assert given["task_state_store"].get("run_id") == scene.run.paths.run_id
        assert stat(scene.pid()).alive

    def test_the_deadline_is_the_sites_and_the_backstop_lies_behind_it(self, scene):
        scene.trainer(trainers.SLEEPS)
        deferred = scene.execute()
        left = deferred.trigger.deadline - time.time()
        assert 590 < left <= 600
        assert deferred.timeout > timedelta(seconds=left)

    def test_a_second_try_adopts_the_run_and_does_not_extend_its_time(self, scene):
        """The worker of the first died between the start of the run and the deferral."""
        scene.trainer(trainers.COUNTS.replace("exit 0", "sleep 60 & wait"))
        first = scene.execute()
        scene.worker_died_before_deferring()
        pid = scene.pid()
        second = scene.execute(try_number=2)
        assert scene.pid() == pid
        assert second.trigger.run_id == first.trigger.run_id
        assert second.trigger.deadline == first.trigger.deadline
        assert second.trigger.owner == 2
        assert folder.claim_of(scene.run.paths).task.try_number == 2

    def test_what_goes_through_xcom_is_an_id(self, scene):
        scene.trainer(scene.good_result())
        deferred = scene.execute()
        scene.until_over()
        assert scene.complete(deferred) == scene.run.paths.run_id


class TestEnds:
    def test_completed(self, scene):
        scene.trainer(scene.good_result())
        deferred = scene.execute()
        scene.until_over()
        assert folder.claim_of(scene.run.paths) is not None
        scene.complete(deferred)
        assert folder.claim_of(scene.run.paths) is None
        row = scene.row()
        assert (row.status, row.exit_code, row.try_number) == ("completed", 0, 1)
        assert row.result.metric("images_per_second") == 100.0
        assert scene.run.paths.recorded.read_text() == "completed\n"

    def test_a_failed_run_is_stored_before_the_task_fails_with_phase_reason_and_log(self, scene):
        scene.trainer(trainers.FAILS)
        deferred = scene.execute()
        scene.until_over()
        with pytest.raises(RunFailedError, match="exit code 1") as error:
            scene.complete(deferred)
        assert "device-side assert" in str(error.value)
        row = scene.row()
        assert (row.status, row.phase, row.exit_code) == ("failed", "setup", 1)
        assert "device-side assert" in row.log_tail

    @pytest.mark.parametrize(
        ("left", "words"),
        [
            ("", "exit code 0, but it left no result.json"),
            ("echo '{\"schema_version\": 1' > result.json", "not a JSON document"),
            ("echo '{\"schema_version\": 99}' > result.json", "this Trainyard reads version 1"),
            ("touch result.json", "not a JSON document"),
        ],
    )
    def test_a_clean_exit_without_a_valid_result_is_a_failure(self, scene, left, words):
        scene.trainer(f"{left}\nexit 0")
        deferred = scene.execute()
        scene.until_over()
        with pytest.raises(RunFailedError, match=words):
            scene.complete(deferred)
        row = scene.row()
        assert row.status == "failed"
        assert row.result is None

    def test_the_result_of_another_run_is_refused(self, scene):
        path = scene.folder / "other.json"
        path.write_text(dumps(result("another-run", scene.run.planned.spec)))
        scene.trainer(trainers.leaves(path))
        deferred = scene.execute()
        scene.until_over()
        with pytest.raises(RunFailedError, match="run_id = 'another-run' is another run's"):
            scene.complete(deferred)

    def test_a_good_result_with_a_bad_exit_code_is_a_failure(self, scene):
        scene.trainer(scene.good_result().replace("exit 0", "exit 3"))
        deferred = scene.execute()
        scene.until_over()
        with pytest.raises(RunFailedError, match="exit code 3"):
            scene.complete(deferred)
        assert scene.row().result.status is Status.FAILED

    def test_a_fast_wrong_run_is_a_failure_not_a_number(self, scene):
        from trainer.contract import Check

        broken = (Check(name="ranks_agree", passed=False, detail="2 hashes"),)
        scene.trainer(scene.good_result(sanity=broken))
        deferred = scene.execute()
        scene.until_over()
        with pytest.raises(RunFailedError, match=r"ranks_agree \(2 hashes\)"):
            scene.complete(deferred)
        assert scene.row().status == "failed"

    def test_a_run_that_took_too_long_is_ended_and_stored(self, scene):
        scene.trainer(trainers.SLEEPS)
        deferred = scene.execute()
        with pytest.raises(RunFailedError, match="stopped after 600 s"):
            scene.complete(deferred, timed_out=True)
        assert not (stat(scene.pid()) and stat(scene.pid()).alive)
        assert scene.row().status == "failed"

    def test_a_triggerer_that_never_came_back_does_not_leave_the_run_running(self, scene):
        from airflow.sdk.bases.operator import TriggerFailureReason

        scene.trainer(trainers.SLEEPS)
        scene.execute()
        with pytest.raises(RunFailedError, match="stopped after 600 s"):
            scene.operator().resume_execution(
                "__fail__", {"error": TriggerFailureReason.TRIGGER_TIMEOUT}, context()
            )
        assert scene.row().status == "failed"

    def test_a_broken_trigger_leaves_the_run_to_the_next_try(self, scene):
        from airflow.sdk.exceptions import TaskDeferralError

        scene.trainer(trainers.SLEEPS)
        scene.execute()
        with pytest.raises(TaskDeferralError):
            scene.operator().resume_execution("__fail__", {"error": "import failed"}, context())
        assert stat(scene.pid()).alive
        assert scene.execute(try_number=2).trigger.run_id == scene.run.paths.run_id


def dies(self, paths):
    """What a SIGKILL in the middle looks like to the code before it."""
    raise KeyboardInterrupt


class TestRetries:
    def test_a_worker_that_died_before_recording_costs_no_second_run(self, scene):
        scene.trainer(scene.good_result() + "; echo $$ >> starts")
        scene.execute()
        scene.until_over()
        assert scene.execute(try_number=2) == scene.run.paths.run_id
        assert scene.rows() == {scene.run.paths.run_id: "completed"}
        assert scene.row().try_number == 2

    def test_a_failed_run_is_repeated_for_a_person_and_not_for_the_scheduler(self, scene):
        scene.trainer("echo $$ >> starts; exit 3")
        deferred = scene.execute()
        scene.until_over()
        with pytest.raises(RunFailedError, match="exit code 3"):
            scene.complete(deferred)
        with pytest.raises(RunFailedError, match="would end the same way"):
            scene.execute(try_number=2)
        assert scene.rows() == {scene.run.paths.run_id: "failed"}
        scene.execute(try_number=2, cleared=1)
        assert folder.newest_attempt(scene.run.paths) == 2

    def test_a_worker_that_died_while_completing_has_not_been_cleared(self, scene, monkeypatch):
        scene.trainer(trainers.SLEEPS)
        deferred = scene.execute()
        monkeypatch.setattr(type(scene.backend), "sweep", dies)
        with pytest.raises(KeyboardInterrupt):
            scene.complete(deferred, timed_out=True)
        assert folder.claim_of(scene.run.paths).deferred is False
        monkeypatch.undo()

    def test_a_lost_run_is_stored_and_run_again_beside_it(self, scene):
        scene.trainer(trainers.SLEEPS)
        deferred = scene.execute()
        os.kill(scene.pid(), signal.SIGKILL)
        scene.until_over()
        with pytest.raises(RunLostError, match="no exit code"):
            scene.complete(deferred)
        assert scene.row().status == "lost"
        again = scene.execute(try_number=2)
        assert again.trigger.run_id == scene.run.paths.attempt(2).run_id
        assert scene.run.paths.spec.exists(), "nothing of the first attempt is gone"

    def test_a_service_that_is_down_costs_no_second_run(self, scene, monkeypatch):
        def down(settings, paths, row):
            raise UnavailableError("the object store does not answer")

        scene.trainer(scene.good_result())
        deferred = scene.execute()
        scene.until_over()
        with monkeypatch.context() as patch:
            patch.setattr("trainyard.ingest._publish", down)
            with pytest.raises(UnavailableError):
                scene.complete(deferred)
        assert scene.row().status == "completed", "the row comes first"
        assert not scene.run.paths.recorded.exists()
        assert scene.execute(try_number=2) == scene.run.paths.run_id
        assert scene.run.paths.recorded.exists()

    def test_clearing_a_finished_task_twice_keeps_all_three_runs(self, scene):
        for attempt in (1, 2, 3):
            scene.trainer(scene.good_result(attempt))
            deferred = scene.execute(try_number=attempt)
            scene.until_over(attempt)
            expected = scene.run.paths.attempt(attempt).run_id
            assert scene.complete(deferred, try_number=attempt) == expected
        assert scene.rows() == {scene.run.paths.attempt(n).run_id: "completed" for n in (1, 2, 3)}

    @pytest.mark.parametrize(
        ("error", "action"),
        [
            (ConfigurationError("x"), "fail"),
            (RunFailedError("x"), "fail"),
            (RunCancelledError("x"), "fail"),
            (RunLostError("x"), "retry"),
            (UnavailableError("x"), "retry"),
            (OSError("x"), "default"),
        ],
    )
    def test_what_is_tried_again(self, scene, error, action):
        decision = scene.operator().retry_policy.evaluate(error, 1, 2)
        assert decision.action.value == action


class TestKills:
    def test_a_kill_on_the_worker_ends_the_run_within_airflows_five_seconds(self, scene):
        from airflow.sdk.exceptions import TaskDeferred

        scene.trainer(trainers.STUBBORN)
        operator = scene.operator()
        with pytest.raises(TaskDeferred):
            operator.execute(context())
        began = time.monotonic()
        operator.on_kill()
        assert time.monotonic() - began < 4.5
        assert scene.backend.observe(scene.run.paths).state is State.CANCELLED

    def test_a_kill_before_anything_started(self, scene):
        scene.operator().on_kill()
        assert not scene.run.paths.run_dir.exists()

    def test_a_cancelled_run_fails_its_task_and_says_why(self, scene):
        scene.trainer(trainers.SLEEPS)
        deferred = scene.execute()
        scene.backend.cancel(scene.run.paths, why="a colleague needed the machine")
        with pytest.raises(RunCancelledError, match="a colleague needed the machine"):
            scene.complete(deferred)
        assert scene.row().status == "cancelled"

    def test_a_cleared_task_runs_anew_after_its_run_was_ended(self, scene):
        scene.trainer(trainers.SLEEPS)
        scene.execute()
        scene.backend.cancel(scene.run.paths, why="cleared")
        again = scene.execute(try_number=2)
        assert again.trigger.run_id == scene.run.paths.attempt(2).run_id
        assert scene.rows()[scene.run.paths.run_id] == "cancelled"

    def test_a_cleared_task_does_not_adopt_what_its_late_trigger_has_not_ended_yet(self, scene):
        scene.trainer(trainers.SLEEPS)
        scene.execute()
        again = scene.execute(try_number=2)
        assert again.trigger.run_id == scene.run.paths.attempt(2).run_id
        assert scene.row().reason == "cancelled: its task was cleared"
        assert stat(scene.pid()) is None or not stat(scene.pid()).alive

    @pytest.mark.slow
    def test_a_try_that_comes_while_the_run_is_being_ended_does_not_adopt_it(self, scene):
        scene.trainer(trainers.STUBBORN)
        scene.execute()
        folder.request_end(scene.run.paths, "cleared")
        again = scene.execute(try_number=2)
        assert again.trigger.run_id == scene.run.paths.attempt(2).run_id
        assert stat(scene.pid()) is None or not stat(scene.pid()).alive


class TestAbandoned:
    """A task killed between its deferral and the start of its trigger leaves a run behind."""

    @pytest.fixture
    def left(self, scene, monkeypatch):
        """A run of another DAG run, started and claimed, and Airflow's word on its task."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        scene.trainer(trainers.SLEEPS)
        task = TaskIdentity(
            dag_id="study", dag_run_id="manual__0", task_id="run_on_cpu", map_index=0
        )
        study = replace(scene.study, dag_run_id="manual__0")
        run = study.run(0)
        reference = references(write_study(study), study)[0]
        claims.take(run.paths, Claim(plan=reference["plan"], index=0, task=task))
        spec = run.planned.spec
        scene.backend.start(launch(spec, study.site, run.paths), run.paths, spec)
        word: dict[str, object] = {"run_on_cpu_0": "failed"}
        monkeypatch.setattr(
            RuntimeTaskInstance,
            "get_task_states",
            staticmethod(lambda **question: {run_id: word for run_id in question["run_ids"]}),
        )
        yield run, word
        scene.backend.sweep(run.paths)

    @pytest.mark.parametrize("state", ["failed", "success", "skipped", "deleted"])
    def test_is_ended_and_recorded_before_the_next_run_is_measured(self, scene, left, state):
        run, word = left
        word["run_on_cpu_0"] = state
        if state == "deleted":
            word.clear()
        scene.execute()
        seen = scene.backend.observe(run.paths)
        assert (seen.state, seen.detail) == (
            State.CANCELLED,
            "cancelled: its task ended without it",
        )
        with open_store(scene.settings.results_url) as store:
            row = store.run(run.paths.run_id)
        assert (row.status, row.dag_run_id) == ("cancelled", "manual__0")
        assert folder.claim_of(run.paths) is None

    @pytest.mark.parametrize(
        "state", ["deferred", "running", "queued", "scheduled", "up_for_retry", None]
    )
    def test_a_run_that_somebody_waits_for_is_left_alone(self, scene, left, state):
        run, word = left
        word["run_on_cpu_0"] = state
        scene.execute()
        assert scene.backend.observe(run.paths).state is State.RUNNING
        assert folder.claim_of(run.paths) is not None

    def test_one_that_cannot_be_ended_does_not_stop_the_next(self, scene, left):
        run, _ = left
        identity = loads(ProcessIdentity, run.paths.process.read_text())
        folder.write_once(run.paths.process, dumps(replace(identity, host="elsewhere")))
        assert scene.execute().trigger.run_id == scene.run.paths.run_id
        folder.write_once(run.paths.process, dumps(identity))


class TestLinks:
    def test_are_pushed_with_what_the_run_is_known_by(self, scene, monkeypatch):
        monkeypatch.setattr(
            "trainyard.ingest._publish",
            lambda settings, paths, row: replace(
                row, mlflow_url="http://mlflow/run", artifacts_uri="s3://bucket/runs/x"
            ),
        )
        scene.trainer(scene.good_result())
        deferred = scene.execute()
        scene.until_over()
        operator = scene.operator()
        key = SimpleNamespace()
        assert [link.get_link(operator, ti_key=key) for link in operator.operator_extra_links] == [
            "",
            "",
            "",
        ]
        event = {"run_id": deferred.trigger.run_id, "state": "exited", "timed_out": False}
        operator.execute_complete(context(), event)
        links = {
            link.name: link.get_link(operator, ti_key=key) for link in operator.operator_extra_links
        }
        assert links == {
            "MLflow run": "http://mlflow/run",
            "Run files": "s3://bucket/runs/x",
            "Slurm job": "",
        }


def test_a_plan_that_is_gone_says_what_to_do(scene):
    Path(scene.reference["plan"]).unlink()
    with pytest.raises(ConfigurationError, match="clear the planning task"):
        scene.execute()


def test_the_plan_is_readable_json(scene):
    plan = json.loads(Path(scene.reference["plan"]).read_text())
    assert plan["plan"]["runs"][0]["spec"]["name"] == scene.run.planned.spec.name
