"""The Docker backend on a real engine: made once, adopted, judged by two sources, and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.docker_runs import Killed, MortalEngine
from trainyard.backends import State, folder
from trainyard.backends.docker import DockerBackend
from trainyard.docker.files import ContainerFiles
from trainyard.errors import ConfigurationError

pytestmark = pytest.mark.slow
STUBBORN = "trap '' TERM; echo up > up; setsid bash -c 'trap \"\" TERM; sleep 60' & wait; wait"
WAITS = "echo $$ >> starts; while [ ! -e go ]; do sleep 0.05; done; exit 0"


class TestARun:
    def test_leaves_its_evidence_and_no_container(self, runs, docker_client, shell_image):
        run = runs("echo out; echo err >&2; echo $TRAINYARD_IMAGE_DIGEST > digest; exit 3")
        assert run.start().state is State.RUNNING
        seen = run.until(State.EXITED)
        assert seen.exit_code == 3
        assert run.paths.exit_code.read_text() == "3\n"
        assert run.paths.stdout.read_text() == "out\n"
        assert run.paths.stderr.read_text() == "err\n"
        image = docker_client.images.get(shell_image).id
        assert run.wait_for("digest") == image
        assert run.left() == run.names
        assert run.backend.sweep(run.paths) == 0
        assert run.left() == []
        ended = ContainerFiles(paths=run.paths, index=0).read_ended()
        assert (ended.name, ended.exit_code, ended.oom_killed) == (run.names[0], 3, False)
        assert ended.image_id == image
        assert str(run.paths.stdout) in ended.log_tail
        assert run.observe() == seen, "the folder alone says the same"

    def test_says_what_it_used(self, runs):
        run = runs("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 0")
        run.start()
        run.until(State.EXITED)
        (use,) = run.backend.usage(run.paths)
        assert (use.state, use.node_list) == ("exit code 0", run.names[0])
        assert 0 < use.cpu_used_s < 60
        assert 0 < use.elapsed_s < 60
        assert use.max_rss_bytes > 100_000

    def test_is_confined(self, runs):
        run = runs(
            "id -u; cat /proc/self/status; cat /proc/1/comm; stat -c %a /tmp; "
            "touch /tmp/x || echo no tmp; touch /etc/x 2>/dev/null && echo wrote /etc; "
            "df --output=size /dev/shm; exit 0",
            shm_bytes=64 << 20,
            user="4242:4242",
        )
        run.paths.run_dir.mkdir(parents=True)
        run.paths.run_dir.chmod(0o777)
        run.paths.containers.mkdir()
        run.paths.containers.chmod(0o777)
        run.start()
        assert run.until(State.EXITED).exit_code == 0
        said = run.paths.stdout.read_text()
        assert said.startswith("4242\n")
        assert "CapEff:\t0000000000000000" in said
        assert "CapBnd:\t0000000000000000" in said
        assert "NoNewPrivs:\t1" in said
        assert "docker-init" in said, "which reaps what a dead launcher leaves"
        assert "1777" in said
        assert str(64 << 10) in said.splitlines()[-1]
        assert "wrote /etc" not in said
        assert "no tmp" not in said

    def test_belongs_to_who_owns_its_folder(self, runs):
        run = runs("id -u > who; id -g >> who; exit 0")
        run.paths.containers.mkdir(parents=True)
        for place in (run.paths.run_dir, run.paths.containers):
            os.chown(place, 1234, 4321)
        run.start()
        assert run.until(State.EXITED).exit_code == 0
        assert run.wait_for("who").split() == ["1234", "4321"]


class TestOnce:
    def test_eight_starters_at_once_make_one_container(self, runs):
        run = runs(WAITS)
        backends = [DockerBackend(run.site, run.engine.again()) for _ in range(8)]
        barrier = threading.Barrier(8)
        failures: list[BaseException] = []

        def start(backend: DockerBackend) -> None:
            barrier.wait()
            try:
                run.start(backend)
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)

        threads = [threading.Thread(target=start, args=(backend,)) for backend in backends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        (run.paths.run_dir / "go").touch()
        assert run.until(State.EXITED).exit_code == 0
        assert run.starts() == 1

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    def test_a_starter_killed_at_any_call_costs_no_second_run(self, runs, after):
        step = 0
        while True:
            step += 1
            run = runs("echo $$ >> starts; exit 0", run_id=f"run-{step}")
            mortal = MortalEngine(run.engine.again(), step, after=after)
            try:
                run.start(DockerBackend(run.site, mortal))
            except Killed:
                died = True
            else:
                died = False
            run.start()
            assert run.until(State.EXITED).exit_code == 0, f"killed at call {step}"
            run.start()
            assert run.starts() == 1, f"killed at call {step}"
            run.backend.sweep(run.paths)
            assert run.left() == []
            if not died:
                break
        assert step > 5

    def test_a_run_outlives_its_starter(self, runs, tmp_path, shell_image):
        run = runs(WAITS)
        code = (
            "import sys, time\nfrom pathlib import Path\n"
            "from tests.fakes.docker_runs import Run\n"
            "from tests.trainyard.docker.test_docker_backend import WAITS\n"
            f"Run(Path({str(tmp_path)!r}), {shell_image!r}, WAITS).start()\n"
            "print('started', flush=True)\ntime.sleep(60)\n"
        )
        starter = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parents[3],
        )
        assert starter.stdout.readline() == "started\n"
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        starter.stdout.close()
        assert run.start().state is State.RUNNING, "another try adopts it"
        (run.paths.run_dir / "go").touch()
        assert run.until(State.EXITED).exit_code == 0
        assert run.starts() == 1

    def test_a_finished_run_is_not_repeated_even_by_hand(self, runs, docker_client):
        run = runs("echo $$ >> starts; exit 0")
        run.start()
        seen = run.until(State.EXITED)
        docker_client.containers.get(run.names[0]).start()
        time.sleep(0.5)
        assert run.start() == seen
        assert run.starts() == 1
        run.backend.sweep(run.paths)
        assert run.start() == seen
        assert run.left() == []

    def test_a_container_of_that_name_that_is_not_this_runs_is_named(
        self, runs, docker_client, shell_image
    ):
        run = runs("exit 0")
        other = docker_client.containers.create(
            shell_image, ["bash"], name=run.names[0], labels={"trainyard.managed": "true"}
        )
        with pytest.raises(
            ConfigurationError, match=r"is not this run's: label trainyard\.spec_id"
        ):
            run.start()
        run.backend.sweep(run.paths)
        other.reload()
        assert other.status == "created", "a stranger's container is left alone"

    def test_another_spec_under_the_same_id_is_refused(self, runs):
        run = runs("exit 0")
        run.start()
        run.until(State.EXITED)
        run.spec = replace(run.spec, seed=7)
        with pytest.raises(ConfigurationError, match="one run id names one spec"):
            run.start()


class TestCancel:
    def test_ends_what_ignores_sigterm_and_removes_it(self, runs):
        run = runs(STUBBORN)
        run.start()
        run.wait_for("up")
        seen = run.backend.cancel(run.paths, why="the user killed the task", grace_s=0.3)
        assert (seen.state, seen.detail) == (
            State.CANCELLED,
            "cancelled: the user killed the task",
        )
        assert run.left() == []
        assert ContainerFiles(paths=run.paths, index=0).read_ended().exit_code == 137
        assert run.backend.cancel(run.paths, why="again").detail == seen.detail

    def test_a_trainer_that_ends_at_sigterm_is_given_the_time(self, runs):
        run = runs("trap 'echo saved > saved; exit 0' TERM; echo up > up; sleep 60 & wait")
        run.start()
        run.wait_for("up")
        assert run.backend.cancel(run.paths, why="test", grace_s=10).state is State.CANCELLED
        assert (run.paths.run_dir / "saved").exists()
        assert run.paths.exit_code.read_text() == "0\n"

    @pytest.mark.parametrize("step", [3, 4, 5])
    def test_what_a_dead_starter_left_half_made_is_removed(self, runs, step):
        run = runs("echo $$ >> starts; sleep 60; exit 0")
        with pytest.raises(Killed):
            run.start(DockerBackend(run.site, MortalEngine(run.engine, step, after=True)))
        run.backend.cancel(run.paths, why="test", grace_s=0.2)
        if run.names[0] in run.left():
            pytest.fail("the container is still there")
        if folder.cancelled(run.paths):
            assert run.start().state is State.CANCELLED
            assert run.left() == []

    def test_a_request_that_comes_while_it_is_made_counts(self, runs):
        run = runs(WAITS)
        create = run.engine.create

        def created_and_cancelled(name: str, body: dict) -> None:
            DockerBackend(run.site, run.engine.again()).observe(run.paths)
            folder.request_end(run.paths, "in between")
            create(name, body)

        run.engine.create = created_and_cancelled
        assert run.start().state is State.CANCELLED
        assert run.left() == []

    def test_a_try_that_lost_the_run_ends_nothing(self, runs):
        from tests.trainyard.test_backends import claim
        from trainyard.backends import claims

        run = runs(WAITS)
        run.start()
        claims.take(run.paths, claim(2))
        assert run.backend.cancel(run.paths, why="test", asked_by=1).state is State.RUNNING
        assert run.left() == run.names
