"""A real engine, our proxy before it as the command serves it, and containers that are not ours."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

LABEL = "trainyard.test.dockerproxy"


@dataclass(frozen=True)
class RunningProxy:
    """A proxy that listens, and where its audit lines go."""

    url: str
    host: str
    port: int
    log: Path
    image: str
    network: str
    volume: str

    def line(self, **values):
        """The first decision with *values*; its line is written after its answer was sent."""
        deadline = time.monotonic() + 5
        while True:
            for line in self.lines():
                if values.items() <= line.items():
                    return line
            assert time.monotonic() < deadline, f"no line with {values}"
            time.sleep(0.02)

    def lines(self):
        """The decisions so far."""
        whole = self.log.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        return [line for line in found if line["event"] == "decision"]


@pytest.fixture(scope="session")
def engine(docker_engine):
    """The engine itself, for what a test must see or prepare behind the proxy's back."""
    import docker

    client = docker.DockerClient(base_url=docker_engine.host, timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(images):
    """A small image with a shell: the one ours are built on."""
    return images.base


@pytest.fixture(scope="session")
def proxy(docker_engine, engine, image, tmp_path_factory):
    """``python -m trainyard.dockerproxy`` on a free port, with network and volume of its own."""
    name = f"ty-proxy-{secrets.token_hex(4)}"
    folder = tmp_path_factory.mktemp("proxy")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    network = engine.networks.create(name, internal=True, labels={LABEL: name})
    (folder / "policy.toml").write_text(
        f'listen = "127.0.0.1:{port}"\nimages = ["{image}"]\nnetworks = ["none", "{name}"]\n'
        f'socket = "{docker_engine.host.removeprefix("unix://")}"\n'
        f'volumes = ["{name}"]\nmemory_bytes = {2**28}\nshm_bytes = {2**26}\npids = 64\n'
    )
    log = folder / "audit.log"
    argv = [sys.executable, "-m", "trainyard.dockerproxy", "--policy", str(folder / "policy.toml")]
    with log.open("w") as stream:
        process = subprocess.Popen(argv, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait_for_line(log, process)
        yield RunningProxy(
            url=f"tcp://127.0.0.1:{port}", host="127.0.0.1", port=port, log=log, image=image,
            network=name, volume=name,
        )  # fmt: skip
    finally:
        process.terminate()
        process.wait(timeout=20)
        for container in engine.containers.list(all=True, filters={"network": name}):
            container.remove(force=True, v=True)
        network.remove()
        for volume in engine.volumes.list(filters={"name": name}):
            volume.remove(force=True)


def _wait_for_line(log, process):
    deadline = time.monotonic() + 30
    while '"listening"' not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "the proxy does not listen"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def client(proxy):
    """The Docker SDK, talking to the proxy."""
    import docker

    made = docker.DockerClient(base_url=proxy.url, version="auto", timeout=30)
    yield made
    made.close()


@pytest.fixture
def foreign(engine, image):
    """A running container that somebody else made, without our label."""
    made = engine.containers.run(
        image, ["sleep", "300"], detach=True, network_mode="none", labels={LABEL: "foreign"},
        environment={"PASSWORD": "s3cret-of-another"},
    )  # fmt: skip
    yield made
    made.remove(force=True)
