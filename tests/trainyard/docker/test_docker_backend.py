"""The Docker backend on a real engine: made once, adopted, judged by two sources, and removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.docker_runs import Killed, MortalEngine, Run
from trainyard.backends import State, folder
from trainyard.backends.docker import DockerBackend
from trainyard.docker.engine import Engine
from trainyard.docker.files import ContainerFiles, planned_path, read_planned
from trainyard.docker.site import Pull
from trainyard.errors import ConfigurationError, UnavailableError

pytestmark = pytest.mark.slow
STUBBORN = "trap '' TERM; echo up > up; setsid bash -c 'trap \"\" TERM; sleep 60' & wait; wait"
WAITS = "echo $$ >> starts; while [ ! -e go ]; do sleep 0.05; done; exit 0"


@pytest.fixture
def runs(tmp_path: Path, shell_image: str):
    made: list[Run] = []

    def make(body: str, **options: Any) -> Run:
        made.append(Run(tmp_path, options.pop("image", shell_image), body, **options))
        return made[-1]

    yield make
    for run in made:
        run.remove()


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


class TestEnds:
    def test_out_of_memory_is_told(self, runs):
        run = runs("x=$(head -c 200000000 /dev/zero | tr '\\0' x); exit 1", memory_bytes=32 << 20)
        run.start()
        seen = run.until(State.KILLED)
        assert "ran out of memory (its limit of 33554432 bytes)" in seen.detail
        assert "docker.memory_bytes" in seen.detail
        assert run.backend.usage(run.paths)[0].state == "out of memory"

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("kill", "was killed (exit code 137)"),
            ("stop", "told to end from outside"),
            ("remove", "was removed before its end was recorded, and left no exit code"),
        ],
    )
    def test_what_others_do_to_a_container_loses_the_run(self, runs, docker_client, how, words):
        run = runs("echo $$ >> starts; sleep 60; exit 0")
        run.start()
        run.wait_for("starts")
        container = docker_client.containers.get(run.names[0])
        options = {"force": True} if how == "remove" else {}
        getattr(container, how)(**options)
        seen = run.until(State.LOST, State.EXITED, State.KILLED)
        assert (seen.state, words in seen.detail) == (State.LOST, True), seen.detail
        assert run.start().state is State.LOST
        assert run.starts() == 1

    def test_the_time_limit_ends_it_when_nobody_is_left(self, runs):
        run = runs("sleep 60; exit 0")
        made = run.launch()
        short = replace(
            made, script=made.script.replace("timeout --kill-after=30 3720", "timeout 1")
        )
        assert short != made
        run.backend.start(short, run.paths, run.spec)
        seen = run.until(State.EXITED)
        assert seen.exit_code == 124

    def test_a_run_folder_that_cannot_be_written_is_told_with_the_wrappers_words(self, runs):
        run = runs("exit 0", user="4242:4242")
        run.start()
        seen = run.until(State.EXITED)
        assert (seen.exit_code, "gave up with exit code 72" in seen.detail) == (72, True)
        assert "ermission denied" in ContainerFiles(paths=run.paths, index=0).read_ended().log_tail


class TestSeveral:
    @pytest.fixture
    def network(self, docker_client, tmp_path):
        made = docker_client.networks.create(f"ty-test-{time.time_ns():x}")
        yield made.name
        for container in made.containers:
            container.remove(force=True)
        made.remove()

    def apart(self, runs, network, body):
        run = runs(body, network=network)
        run.spec = replace(run.spec, ranks=2, nodes=2, distributed=True, global_batch=128)
        return run

    def test_both_run_and_the_first_bad_end_is_the_reason(self, runs, network):
        run = self.apart(
            runs, network, "echo rank $PET_NODE_RANK; sleep $PET_NODE_RANK; exit $PET_NODE_RANK"
        )
        run.start()
        seen = run.until(State.EXITED)
        assert (seen.exit_code, seen.detail) == (1, f"container {run.names[1]}: exit code 1")
        assert run.paths.stdout.read_text() == "rank 0\n"
        assert (run.paths.containers / "1" / "stdout.log").read_text() == "rank 1\n"
        assert len(run.backend.usage(run.paths)) == 2
        run.backend.sweep(run.paths)
        assert run.left() == []

    def test_one_that_is_removed_loses_the_run_and_the_other_is_ended(
        self, runs, network, docker_client
    ):
        run = self.apart(runs, network, "echo up > up-$PET_NODE_RANK; sleep 60; exit 0")
        run.start()
        run.wait_for("up-1")
        docker_client.containers.get(run.names[1]).remove(force=True)
        assert run.until(State.LOST)
        assert run.backend.sweep(run.paths) == 1
        assert run.left() == []

    @pytest.mark.parametrize("step", [7, 8, 10])
    def test_a_starter_killed_between_them_is_completed_by_the_next(self, runs, network, step):
        run = self.apart(runs, network, "echo $PET_NODE_RANK >> starts; sleep 1; exit 0")
        with pytest.raises(Killed):
            run.start(DockerBackend(run.site, MortalEngine(run.engine, step, after=True)))
        run.start()
        assert run.until(State.EXITED).exit_code == 0
        assert sorted((run.paths.run_dir / "starts").read_text().split()) == ["0", "1"]


class TestRefusals:
    def test_a_missing_image(self, runs):
        run = runs("exit 0", image="trainyard/nothing:here")
        with pytest.raises(
            ConfigurationError, match=r"trainyard/nothing:here is not on the engine"
        ):
            run.start()
        assert run.observe().state is State.NOT_STARTED

    def test_an_image_that_no_registry_gives(self, runs):
        run = runs("exit 0", image="127.0.0.1:9/nothing:here", pull=Pull.MISSING)
        with pytest.raises((UnavailableError, ConfigurationError), match="pull"):
            run.start()

    def test_a_missing_network(self, runs):
        run = runs("exit 0", network="no-such-network")
        with pytest.raises((UnavailableError, ConfigurationError), match="docker network"):
            run.start()
        assert run.left() == []

    def test_a_folder_that_the_engine_does_not_see(self, runs):
        run = runs("exit 0", mounts=("/nowhere/at/all:/x",))
        with pytest.raises(ConfigurationError, match="The engine sees another file system"):
            run.start()

    def test_gpus_without_their_runtime(self, runs):
        run = runs("exit 0")
        run.site = replace(run.site, gpus_per_node=1)
        with pytest.raises(ConfigurationError, match="NVIDIA container toolkit"):
            run.start()
        assert run.left() == []
        assert run.observe().state is State.NOT_STARTED

    def test_no_engine(self, tmp_path, shell_image):
        run = Run(tmp_path, shell_image, "exit 0", host=f"unix://{tmp_path}/docker.sock")
        with pytest.raises(UnavailableError, match=r"docker\.sock does not exist. Start it"):
            run.start()

    def test_an_engine_that_goes_away_is_unknown_and_never_a_verdict(self, runs, tmp_path):
        run = runs(WAITS)
        run.start()

        def refuse() -> None:
            raise ConnectionRefusedError("connection refused")

        cut = DockerBackend(run.site, Engine("tcp://10.0.0.1:2375", refuse))
        seen = cut.observe(run.paths)
        assert seen.state is State.UNKNOWN
        assert "does not answer: connection refused" in seen.detail
        with pytest.raises(UnavailableError, match="does not answer"):
            cut.cancel(run.paths, why="test")
        assert cut.sweep(run.paths) == 0
        assert run.observe().state is State.RUNNING
        run.backend.cancel(run.paths, why="test", grace_s=0.1)
        assert run.left() == []

    def test_notes_that_cannot_be_read_are_named(self, runs):
        run = runs("exit 0")
        run.start()
        run.until(State.EXITED)
        planned_path(run.paths).write_text('{"names": [')
        with pytest.raises(UnavailableError, match=r"planned\.json"):
            run.observe()
        planned_path(run.paths).unlink()
        assert read_planned(run.paths) is None
        assert json.loads(ContainerFiles(paths=run.paths, index=0).ended.read_text())
