"""The backend behind the socket proxy of the stack, as the stack's site has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from tests.fakes.docker_runs import Run
from trainyard.backends import State
from trainyard.backends.docker import DockerBackend
from trainyard.errors import ConfigurationError, UnavailableError

pytestmark = pytest.mark.slow
NOBODY = 4242


@pytest.fixture
def proxy(docker_engine, shell_image, tmp_path):
    """Address of ``python -m trainyard.dockerproxy``, which lets through what these runs need."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'listen = "127.0.0.1:{port}"\nimages = ["{shell_image}"]\nnetworks = ["none"]\n'
        f'socket = "{docker_engine.host.removeprefix("unix://")}"\nbinds_below = ["{tmp_path}"]\n'
    )
    argv = [sys.executable, "-m", "trainyard.dockerproxy", "--policy", str(policy)]
    with (tmp_path / "proxy.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while True:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "proxy.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield f"tcp://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def run(proxy, tmp_path, shell_image):
    """A run whose folder belongs to an ordinary user: the proxy lets nobody be root."""
    body = "trap 'exit 0' TERM; echo up >> up; while [ ! -e go ]; do sleep 0.05; done"
    made = Run(tmp_path, shell_image, body, host=proxy)
    made.paths.containers.mkdir(parents=True)
    if os.getuid() == 0:
        for place in (made.paths.run_dir, made.paths.containers):
            os.chown(place, NOBODY, NOBODY)
    yield made
    made.remove()


def test_a_run_from_start_to_end(run):
    assert run.start().state is State.RUNNING
    run.wait_for("up")
    assert run.start(DockerBackend(run.site, run.engine.again())).state is State.RUNNING
    (run.paths.run_dir / "go").touch()
    assert run.until(State.EXITED).exit_code == 0
    run.backend.sweep(run.paths)
    assert run.left() == []
    assert run.wait_for("up") == "up", "started once"


def test_a_run_that_is_cancelled(run):
    run.start()
    run.wait_for("up")
    assert run.backend.cancel(run.paths, why="test", grace_s=5).state is State.CANCELLED
    assert run.left() == []


def test_what_the_proxy_refuses_is_told_with_its_rule(run, tmp_path, shell_image):
    other = Run(tmp_path, shell_image, "exit 0", host=run.site.docker.host, network="bridge",
                run_id="other", user=f"{NOBODY}:{NOBODY}")  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"refuses to create container .*'bridge'"):
        other.start()
    assert other.observe().state is State.NOT_STARTED
    unknown = Run(tmp_path, "alpine:3", "exit 0", host=run.site.docker.host, run_id="unknown")
    with pytest.raises((ConfigurationError, UnavailableError), match="alpine:3"):
        unknown.start()
