"""Profiles of ranks in real, hardened containers: nsys is mounted, torch.profiler is inside."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from tests.fakes.docker_runs import Run, docker_site
from tests.fixtures.profiles import MOUNT, NSIGHT, assert_every_rank_is_profiled, profiled_spec
from trainer.contract import Profiler
from trainyard.backends import State
from trainyard.docker.engine import local_engine
from trainyard.docker.site import Containers
from trainyard.environment_docker import container_answer
from trainyard.environment_profilers import CODE, judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PYTHON = "/opt/trainer/bin/python"
USER = 10001


@pytest.fixture
def network(docker_client):
    made = docker_client.networks.create(f"ty-test-{time.time_ns():x}", internal=True)
    yield made.name
    made.remove()


@pytest.mark.parametrize(
    ("profiler", "apart"),
    [(Profiler.TORCH, False), (Profiler.NSYS, False), (Profiler.NSYS, True)],
)
def test_every_rank_leaves_a_profile(tmp_path, images, network, profiler, apart):
    spec = profiled_spec(profiler, nodes=2 if apart else 1)
    more = {"containers": Containers.PER_RANK, "network": network} if apart else {}
    if profiler is Profiler.NSYS:
        more["mounts"] = (MOUNT,)
    run = Run(tmp_path, images["trainer"], "", **more)
    run.site, run.spec = replace(run.site, python=PYTHON), spec
    # The user of the stack's containers, who has neither a name nor a home in the image's view.
    run.paths.containers.mkdir(parents=True)
    for folder in (run.paths.run_dir, run.paths.containers):
        os.chown(folder, USER, USER)
    try:
        run.start()
        run.until(State.EXITED, seconds=150)
    finally:
        run.remove()
    assert_every_rank_is_profiled(run.paths, spec)
    assert {path.stat().st_uid for path in run.paths.profiles.iterdir()} == {USER}


def test_the_preflight_finds_what_is_mounted_and_says_how_to_mount_what_is_not(tmp_path, images):
    profiled_spec(Profiler.NSYS)
    for mounts, verdict in (((MOUNT,), "passed"), ((), "failed")):
        site = replace(docker_site(tmp_path, images["trainer"], mounts=mounts), python=PYTHON)
        answer = container_answer(site, local_engine(site.docker), CODE)
        found = judge("nsys", site, answer)
        assert found.verdict == verdict, found
        if verdict == "passed":
            assert found.measured.startswith(f"{NSIGHT}/")
        else:
            assert f'add "{MOUNT}" to docker.mounts' in found.fix
