"""The proxy in its image: not root, with the socket's group and nothing else, healthy."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import docker
import pytest

pytestmark = pytest.mark.slow
POLICY = """
listen = "0.0.0.0:2375"
images = ["trainyard/trainer:*"]
networks = ["none"]
"""


@pytest.fixture
def served(engine, docker_engine, images, tmp_path):
    """The container, as the stack starts it, and a client of it."""
    (tmp_path / "policy.toml").write_text(POLICY)
    socket = docker_engine.host.removeprefix("unix://")
    tmp_path.chmod(0o755)
    container = engine.containers.run(
        images["docker-proxy"], detach=True, name=f"ty-proxy-{secrets.token_hex(4)}",
        read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"],
        group_add=[str(Path(socket).stat().st_gid)], ports={"2375/tcp": ("127.0.0.1", None)},
        volumes={
            socket: {"bind": "/var/run/docker.sock", "mode": "ro"},
            str(tmp_path / "policy.toml"): {"bind": "/etc/trainyard/docker-proxy.toml"},
        },
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while b"listening" not in container.logs():
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.2)
        container.reload()
        port = container.ports["2375/tcp"][0]["HostPort"]
        client = docker.DockerClient(f"tcp://127.0.0.1:{port}", version="auto", timeout=20)
        yield container, client
        client.close()
    finally:
        container.remove(force=True, v=True)


def test_it_reaches_the_engine_as_nobody_in_particular(served):
    container, client = served
    assert client.ping()
    code, said = container.exec_run(["id", "-u"])
    assert (code, said) == (0, b"10001\n")
    code, said = container.exec_run(["python", "-m", "trainyard.dockerproxy", "--ping"])
    assert code == 0, said
    with pytest.raises(docker.errors.APIError, match="docker proxy refuses Image"):
        client.containers.create("alpine:latest", network_mode="none")


def test_it_holds_the_proxy_and_nothing_of_airflow(served):
    container, _ = served
    code, said = container.exec_run(["python", "-c", "import airflow"])
    assert code != 0, said
    code, said = container.exec_run(["ls", "/opt/trainyard/plugins/trainyard"])
    assert set(said.decode().split()) == {"__init__.py", "dockerproxy", "errors.py"}
