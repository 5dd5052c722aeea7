"""How runs in containers end, on a real engine: alone or several, and what never begins."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from tests.fakes.docker_runs import Killed, MortalEngine, Run
from tests.fakes.runs import SPEC
from trainyard.backends import State
from trainyard.backends.docker import DockerBackend
from trainyard.docker.engine import Engine
from trainyard.docker.files import ContainerFiles, planned_path, read_planned
from trainyard.docker.site import Containers, Pull
from trainyard.errors import ConfigurationError, UnavailableError

pytestmark = pytest.mark.slow
STUBBORN = "trap '' TERM; echo up > up; setsid bash -c 'trap \"\" TERM; sleep 60' & wait; wait"
WAITS = "echo $$ >> starts; while [ ! -e go ]; do sleep 0.05; done; exit 0"


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


class TestRealTrainer:
    """What the trainer's own image computes does not depend on how ranks are spread."""

    @pytest.mark.timeout(240)
    def test_a_container_per_rank_trains_to_the_weights_of_one_container(
        self, tmp_path, images, docker_client
    ):
        from trainyard.outcome import judge

        network = docker_client.networks.create(f"ty-test-{time.time_ns():x}", internal=True)
        one = Run(tmp_path, images["trainer"], "", run_id="one")
        apart = Run(
            tmp_path,
            images["trainer"],
            "",
            run_id="apart",
            containers=Containers.PER_RANK,
            network=network.name,
        )
        results = []
        try:
            for run, nodes in ((one, 1), (apart, 2)):
                run.site = replace(run.site, python="/opt/trainer/bin/python")
                run.spec = replace(
                    SPEC, ranks=2, nodes=nodes, global_batch=64, per_rank_batch=32, steps=12,
                    warmup_steps=2, window_steps=5, evaluate=False,
                )  # fmt: skip
                run.start()
                outcome = judge(run.paths, run.spec, run.until(State.EXITED, seconds=110))
                assert (outcome.status, outcome.reason) == ("completed", "")
                results.append(outcome.result)
        finally:
            one.remove()
            apart.remove()
            network.remove()
        first, second = results
        assert first.parameter_hash == second.parameter_hash != ""
        assert len(first.machines) == 1
        assert len(second.machines) == 2
        image = docker_client.images.get(images["trainer"]).id
        assert {first.provenance.image, second.provenance.image} == {image}
