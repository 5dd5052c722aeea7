"""The process backend with real processes: started once, recognised, and ended for certain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import trainers
from tests.fakes.runs import SPEC, site
from tests.requirements import need
from trainer.contract import dumps, loads
from trainyard.backends import State, claims, folder, open_backend, procfs
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.backends.process import ProcessBackend
from trainyard.backends.procfs import ProcessIdentity
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.launch import launch
from trainyard.paths import RunPaths


class Run:
    """One run of a stand-in trainer."""

    def __init__(self, base: Path, body: str, run_id: str = "run") -> None:
        self.backend = ProcessBackend()
        self.site = site(base, trainers.trainer(base, body))
        self.paths = RunPaths(root=Path(self.site.runs_dir), run_id=run_id)
        self.spec = replace(SPEC, distributed=False)

    def start(self):
        return self.backend.start(launch(self.spec, self.site, self.paths), self.paths, self.spec)

    def observe(self):
        return self.backend.observe(self.paths)

    def until(self, *states: State, seconds: float = 10.0):
        end = time.monotonic() + seconds
        while (seen := self.observe()).state not in states:
            assert time.monotonic() < end, f"still {seen}"
            time.sleep(0.02)
        return seen

    @property
    def identity(self) -> ProcessIdentity:
        return loads(ProcessIdentity, self.paths.process.read_text())

    def wait_for(self, name: str) -> str:
        end = time.monotonic() + 10
        path = self.paths.run_dir / name
        while not (path.exists() and path.read_text().strip()):
            assert time.monotonic() < end, f"{name} never appeared"
            time.sleep(0.02)
        return path.read_text().strip()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Any]:
    made: list[Run] = []

    def make(body: str, **options: Any) -> Run:
        made.append(Run(tmp_path, body, **options))
        return made[-1]

    yield make
    for run in made:
        run.backend.sweep(run.paths)


def claim(try_number: int) -> Claim:
    task = TaskIdentity(dag_id="d", dag_run_id="r", task_id="t", try_number=try_number)
    return Claim(plan="/plan.json", index=0, task=task)


def alive(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.alive


class TestStart:
    def test_a_run_ends_with_the_exit_code_of_its_command(self, runs):
        run = runs(trainers.FAILS)
        run.start()
        seen = run.until(State.EXITED)
        assert seen.exit_code == 1
        assert "device-side assert" in run.paths.stderr.read_text()

    def test_the_folder_holds_spec_and_script_that_ran(self, runs):
        run = runs(trainers.OK)
        run.start()
        run.until(State.EXITED)
        assert run.paths.spec.read_text() == dumps(run.spec)
        assert run.paths.script.read_text() == launch(run.spec, run.site, run.paths).script
        assert os.access(run.paths.script, os.X_OK)

    def test_nothing_is_there_before_the_start(self, runs):
        run = runs(trainers.OK)
        assert run.observe().state is State.NOT_STARTED
        assert not run.paths.run_dir.exists()

    def test_eight_starters_at_once_start_one_process(self, runs):
        run = runs(trainers.COUNTS)
        barrier = threading.Barrier(8)
        failures: list[BaseException] = []

        def start() -> None:
            barrier.wait()
            try:
                run.start()
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        run.until(State.EXITED)
        assert len((run.paths.run_dir / "starts").read_text().splitlines()) == 1

    def test_a_finished_run_is_adopted_not_repeated(self, runs):
        run = runs(trainers.COUNTS)
        run.start()
        run.until(State.EXITED)
        assert run.start().state is State.EXITED
        assert len((run.paths.run_dir / "starts").read_text().splitlines()) == 1

    def test_another_spec_under_the_same_id_is_refused(self, runs):
        run = runs(trainers.OK)
        run.start()
        run.until(State.EXITED)
        run.spec = replace(run.spec, seed=7)
        with pytest.raises(ConfigurationError, match="one run id names one spec"):
            run.start()

    def test_a_starter_that_dies_before_the_identity_is_written_starts_nothing(
        self, runs, monkeypatch
    ):
        run = runs(trainers.COUNTS)
        write = folder.write_once

        def die_at_process_json(path: Path, text: str) -> None:
            if path == run.paths.process:
                raise KeyboardInterrupt
            write(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(folder, "write_once", die_at_process_json)
            with pytest.raises(KeyboardInterrupt):
                run.start()
        assert run.observe().state is State.NOT_STARTED
        deadline = time.monotonic() + 5
        while procfs.members(str(run.paths.run_dir), None):
            assert time.monotonic() < deadline, "the wrapper waits for ever"
            time.sleep(0.02)
        assert not (run.paths.run_dir / "starts").exists()
        run.start()
        run.until(State.EXITED)
        assert len((run.paths.run_dir / "starts").read_text().splitlines()) == 1

    def test_airflows_secrets_do_not_reach_the_run(self, runs, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
        monkeypatch.setenv("PYTHONPATH", "/somewhere")
        monkeypatch.setenv("LC_ALL", "C.UTF-8")
        run = runs(trainers.SHOWS_ENVIRONMENT)
        run.start()
        run.until(State.EXITED)
        text = (run.paths.run_dir / "environment").read_text()
        names = {entry.partition("=")[0] for entry in text.split("\0")}
        assert {"LC_ALL", "PATH", "OMP_NUM_THREADS", procfs.MARK} <= names
        assert not {name for name in names if name.startswith("AIRFLOW")}
        assert "PYTHONPATH" not in names

    @pytest.mark.parametrize(
        "name", ["with blank", "quote'd", 'double"', "$(touch hacked)", "semi;colon", "ümläut"]
    )
    def test_hostile_folder_names(self, tmp_path, runs, name):
        place = tmp_path / name
        place.mkdir()
        run = Run(place, trainers.COUNTS)
        run.start()
        assert run.until(State.EXITED).exit_code == 0
        assert not list(tmp_path.rglob("hacked"))

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        run = Run(tmp_path, trainers.OK)
        run.paths.lock.parent.mkdir(parents=True)
        run.paths.run_dir.write_text("a file is in the way")
        with pytest.raises(UnavailableError, match=str(run.paths.run_dir)):
            run.start()


class TestSurvival:
    def test_the_run_outlives_its_starter_and_its_process_group(self, runs, tmp_path):
        run = runs(trainers.SLEEPS)
        code = (
            "import os, sys, time\n"
            "from pathlib import Path\n"
            "from tests.trainyard.test_backends import Run\n"
            "import tests.fakes.trainers as trainers\n"
            f"Run(Path({str(tmp_path)!r}), trainers.SLEEPS).start()\n"
            "print('started', flush=True)\n"
            "time.sleep(60)\n"
        )
        starter = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        assert starter.stdout.readline() == "started\n"
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
        starter.stdout.close()
        assert run.observe().state is State.RUNNING
        assert run.start().state is State.RUNNING, "a second try adopts the run"
        assert run.backend.cancel(run.paths, why="test").state is State.CANCELLED

    def test_a_killed_wrapper_is_lost_and_its_ranks_are_swept(self, runs):
        run = runs(trainers.STUBBORN)
        run.start()
        rank = int(run.wait_for("rank.pid"))
        os.kill(run.identity.pid, signal.SIGKILL)
        seen = run.until(State.LOST)
        assert "no exit code" in seen.detail
        assert alive(rank)
        assert run.backend.sweep(run.paths) >= 1
        assert not alive(rank)

    def test_ranks_left_by_a_dead_launcher_are_swept(self, runs):
        run = runs(trainers.ORPHANS)
        run.start()
        assert run.until(State.EXITED).exit_code == 1
        rank = int(run.wait_for("rank.pid"))
        assert alive(rank)
        assert run.backend.sweep(run.paths) == 1
        assert not alive(rank)

    def test_a_sweep_of_a_clean_run_ends_nothing(self, runs):
        run = runs(trainers.OK)
        run.start()
        run.until(State.EXITED)
        assert run.backend.sweep(run.paths) == 0


class TestIdentity:
    def test_a_process_that_took_over_the_pid_is_neither_the_run_nor_killed(self, runs):
        run = runs(trainers.SLEEPS)
        run.start()
        run.backend.cancel(run.paths, why="test")
        run.paths.cancelled.unlink()
        bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
        try:
            taken = replace(run.identity, pid=bystander.pid)
            folder.write_once(run.paths.process, dumps(taken))
            assert run.observe().state is State.LOST
            assert run.backend.cancel(run.paths, why="again").state is State.LOST
            assert run.backend.sweep(run.paths) == 0
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_a_zombie_is_not_alive(self):
        child = subprocess.Popen(["sleep", "60"])
        identity = procfs.identify(child.pid, time.time())
        assert procfs.is_alive(identity)
        child.kill()
        deadline = time.monotonic() + 5
        while procfs.stat(child.pid).state != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not procfs.is_alive(identity)
        assert procfs.identify(child.pid, time.time()) is None
        child.wait()

    def test_a_restart_of_the_host_loses_the_run(self, runs):
        run = runs(trainers.SLEEPS)
        run.start()
        before = replace(run.identity, boot_id="another boot")
        folder.write_once(run.paths.process, dumps(before))
        seen = run.observe()
        assert seen.state is State.LOST
        assert "restarted" in seen.detail

    def test_another_host_is_unknown_never_a_verdict(self, runs):
        run = runs(trainers.SLEEPS)
        run.start()
        folder.write_once(run.paths.process, dumps(replace(run.identity, host="elsewhere")))
        seen = run.observe()
        assert seen.state is State.UNKNOWN
        assert not seen.state.is_over
        folder.write_once(run.paths.exit_code, "0\n")
        assert run.observe().state is State.EXITED, "the exit code is evidence from anywhere"
        run.paths.exit_code.unlink()
        with pytest.raises(UnavailableError, match="elsewhere"):
            run.backend.cancel(run.paths, why="test")

    def test_a_broken_identity_is_named(self, runs):
        run = runs(trainers.OK)
        run.paths.run_dir.mkdir(parents=True)
        run.paths.process.write_text('{"pid": 1')
        with pytest.raises(UnavailableError, match=r"process\.json"):
            run.observe()
        run.paths.process.unlink()


class TestExitCode:
    @pytest.mark.parametrize(
        ("text", "state", "code"),
        [
            pytest.param("0\n", State.EXITED, 0, id="clean"),
            pytest.param("137\n", State.EXITED, 137, id="killed"),
            pytest.param("", State.EXITED, None, id="empty"),
            pytest.param("what", State.EXITED, None, id="no number"),
        ],
    )
    def test_what_the_file_says(self, runs, text, state, code):
        run = runs(trainers.OK)
        run.paths.run_dir.mkdir(parents=True)
        run.paths.exit_code.write_text(text)
        seen = run.observe()
        assert (seen.state, seen.exit_code) == (state, code)

    def test_a_half_written_exit_code_does_not_count(self, runs):
        run = runs(trainers.SLEEPS)
        run.start()
        Path(f"{run.paths.exit_code}.partial").write_text("0")
        assert run.observe().state is State.RUNNING


class TestCancel:
    def test_reaches_ranks_in_their_own_session_that_ignore_sigterm(self, runs):
        run = runs(trainers.STUBBORN)
        run.start()
        rank = int(run.wait_for("rank.pid"))
        seen = run.backend.cancel(run.paths, why="the user killed the task", grace_s=0.3)
        assert seen.state is State.CANCELLED
        assert "the user killed the task" in seen.detail
        assert not alive(rank)
        assert not procfs.members(str(run.paths.run_dir), run.identity)

    def test_twice_keeps_the_first_reason(self, runs):
        run = runs(trainers.SLEEPS)
        run.start()
        run.backend.cancel(run.paths, why="first")
        seen = run.backend.cancel(run.paths, why="second")
        assert seen.state is State.CANCELLED
        assert json.loads(run.paths.cancelled.read_text())["why"] == "first"

    def test_two_at_once(self, runs):
        run = runs(trainers.STUBBORN)
        run.start()
        run.wait_for("rank.pid")
        asked = [
            threading.Thread(
                target=run.backend.cancel, args=(run.paths,), kwargs={"why": "w", "grace_s": 0.3}
            )
            for _ in range(2)
        ]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        assert run.observe().state is State.CANCELLED

    def test_a_completed_run_stays_completed(self, runs):
        run = runs(trainers.OK)
        run.start()
        run.until(State.EXITED)
        seen = run.backend.cancel(run.paths, why="too late")
        assert (seen.state, seen.exit_code) == (State.EXITED, 0)
        assert not run.paths.cancelled.exists()

    def test_a_clean_exit_after_the_request_without_a_result_is_cancelled(self, runs):
        run = runs("trap 'exit 0' TERM; sleep 60 & wait")
        run.start()
        assert run.backend.cancel(run.paths, why="test").state is State.CANCELLED

    def test_a_request_that_came_after_the_clean_end_does_not_undo_it(self, runs):
        run = runs("touch result.json; exit 0")
        run.start()
        run.until(State.EXITED)
        folder.request_end(run.paths, "a moment too late")
        assert run.observe().state is State.EXITED

    def test_before_the_start_nothing_happens(self, runs):
        run = runs(trainers.OK)
        assert run.backend.cancel(run.paths, why="early").state is State.NOT_STARTED

    def test_a_try_that_lost_the_run_may_not_end_it(self, runs):
        run = runs(trainers.SLEEPS)
        run.start()
        assert claims.take(run.paths, claim(2))
        assert run.backend.cancel(run.paths, why="try 1", asked_by=1).state is State.RUNNING
        assert not run.paths.cancelled.exists()
        assert run.backend.cancel(run.paths, why="try 2", asked_by=2).state is State.CANCELLED
        assert not claims.take(run.paths, claim(3)), "a run that is being ended cannot be adopted"


class TestAttempts:
    def test_a_recorded_attempt_gets_a_successor_beside_it(self, tmp_path):
        paths = RunPaths(root=tmp_path, run_id="run")
        assert folder.attempt_to_run(paths) == paths
        for number in (1, 2, 3):
            attempt = paths.attempt(number)
            attempt.run_dir.mkdir()
            assert folder.attempt_to_run(paths) == attempt, "not recorded yet: the same again"
            folder.write_once(attempt.recorded, "completed\n")
        assert folder.attempt_to_run(paths).run_id == "run.attempt-4"
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "run", "run.attempt-2", "run.attempt-3",
        ]  # fmt: skip


def test_a_run_that_nobody_ends_ends_by_itself(tmp_path):
    """The wrapper's own limit, for a host on which Airflow died for good."""
    run = Run(tmp_path, trainers.SLEEPS)
    made = launch(run.spec, run.site, run.paths)
    assert made.script.count(" 3720 ") == 1
    quick = replace(made, script=made.script.replace(" 3720 ", " 0.3 "))
    run.backend.start(quick, run.paths, run.spec)
    assert run.until(State.EXITED).exit_code == 124
    assert run.backend.sweep(run.paths) == 0


def test_every_launcher_has_a_backend(tmp_path):
    assert isinstance(open_backend(site(tmp_path)), ProcessBackend)


def test_signals_never_reach_a_later_process_with_the_same_pid():
    child = subprocess.Popen(["sleep", "60"])
    try:
        started = procfs.stat(child.pid).start_ticks
        procfs.send(child.pid, started + 1, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
        assert child.poll() is None
        procfs.send(child.pid, started, signal.SIGKILL)
        assert child.wait(5) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    procfs.send(child.pid, started, signal.SIGKILL)  # gone: nothing happens


@pytest.mark.slow
class TestRealTrainer:
    """torchrun gives every rank a session of its own: the cases that stand-ins only imitate."""

    @pytest.fixture
    def run(self, tmp_path):
        from tests.fixtures.airflow import TRAINER

        need(TRAINER.exists(), f"the trainer's environment is missing ({TRAINER}): make setup-test")
        made = Run(tmp_path, trainers.OK)
        made.site = replace(made.site, python=str(TRAINER))
        made.spec = replace(
            SPEC, ranks=2, global_batch=64, per_rank_batch=32, steps=100_000, evaluate=False
        )
        yield made
        made.backend.sweep(made.paths)

    def training(self, run: Run) -> list[int]:
        """Wait until the run trains; return its ranks."""
        end = time.monotonic() + 120
        while '"name": "train"' not in (
            run.paths.metrics.read_text() if run.paths.metrics.exists() else ""
        ):
            assert run.observe().state is State.RUNNING, run.paths.stderr.read_text()[-2000:]
            assert time.monotonic() < end, "it never came to train"
            time.sleep(0.1)
        sessions = {
            pid: procfs.stat(pid).session
            for pid in procfs.members(str(run.paths.run_dir), run.identity)
        }
        return [pid for pid, session in sessions.items() if session != run.identity.pid]

    def test_a_cancel_leaves_no_rank(self, run):
        run.start()
        ranks = self.training(run)
        assert len(ranks) >= 2
        assert run.backend.cancel(run.paths, why="test", grace_s=5).state is State.CANCELLED
        assert not any(alive(rank) for rank in ranks)

    def test_a_rank_that_is_killed_does_not_leave_the_other_hanging(self, run):
        run.start()
        ranks = self.training(run)
        os.kill(ranks[-1], signal.SIGKILL)
        seen = run.until(State.EXITED, seconds=60)
        assert seen.exit_code not in {0, None}
        run.backend.sweep(run.paths)
        assert not any(alive(rank) for rank in ranks)

    def test_a_short_run_leaves_a_valid_result(self, run):
        from trainyard.outcome import judge

        run.spec = replace(run.spec, steps=12, evaluate=True)
        run.start()
        outcome = judge(run.paths, run.spec, run.until(State.EXITED, seconds=120))
        assert (outcome.status, outcome.reason) == ("completed", "")
        assert outcome.result.run_id == run.paths.run_id
