"""What the proxy lets through, on a real engine: the SDK, Airflow's hook and its DockerOperator."""

from __future__ import annotations

import gc
import json
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection

import docker
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(client, proxy):
    """Start a container through the proxy; it is removed afterwards."""
    made = []

    def start(script, **options):
        options = {"network_mode": "none", **options}
        made.append(
            client.containers.run(proxy.image, ["sh", "-c", script], detach=True, **options)
        )
        return made[-1]

    yield start
    for container in made:
        with suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)


def test_a_container_lives_its_whole_life_through_the_proxy(run, client, engine, proxy):
    container = run("id -u; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'; exit 3",
                    labels={"trainyard.run_id": "run-7"})  # fmt: skip
    assert container.wait()["StatusCode"] == 3
    text = container.logs().decode()
    assert text.splitlines()[0] == "10001"
    assert dict(line.split() for line in text.splitlines()[1:]) == {
        "CapEff:": "0" * 16,
        "NoNewPrivs:": "1",
    }
    assert container.id in {found.id for found in client.containers.list(all=True)}
    seen = engine.api.inspect_container(container.id)
    assert seen["HostConfig"]["Memory"] == 2**28
    assert seen["HostConfig"]["PidsLimit"] == 64
    assert seen["Config"]["Labels"]["trainyard.managed"] == "true"
    assert seen["Config"]["Labels"]["trainyard.run_id"] == "run-7"
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get(container.id)
    assert proxy.line(operation="remove", run_id="run-7")["decision"] == "allowed"


def test_a_log_is_followed_line_by_line(run):
    container = run("for i in 1 2 3; do echo $i; sleep 0.7; done")
    times = [time.monotonic() for _ in container.logs(stream=True, follow=True)]
    assert len(times) == 3
    assert times[-1] - times[0] > 1.0, "the lines came together at the end"


def test_stats_and_top_show_a_running_container(run):
    container = run("sleep 60")
    assert "sleep 60" in str(container.top())
    assert container.stats(stream=False)["memory_stats"]["limit"] == 2**28


def test_a_container_is_killed_and_stopped(run):
    container = run("sleep 60")
    container.kill(signal="SIGKILL")
    assert container.wait()["StatusCode"] == 137
    other = run("trap 'exit 5' TERM; while :; do sleep 0.1; done")
    time.sleep(0.5)
    other.stop(timeout=10)
    assert other.wait()["StatusCode"] == 5


def test_a_volume_and_the_network_are_shared_by_containers(run, proxy):
    volumes = {proxy.volume: {"bind": "/tmp/shared", "mode": "rw"}}
    host = {"network_mode": None, "network": proxy.network}
    first = run("sleep 30", name=f"{proxy.network}-0", **host)
    second = run(f"getent hosts {proxy.network}-0; ls /tmp/shared", volumes=volumes, **host)
    assert second.wait()["StatusCode"] == 0
    assert second.logs().decode().split()[1] == first.name


@pytest.mark.parametrize(
    ("operation", "method", "query"),
    [("wait", "POST", ""), ("stats", "GET", "?stream=1"), ("logs", "GET", "?stdout=1&follow=1")],
)
def test_the_engine_is_let_go_when_the_client_goes_away(run, proxy, operation, method, query):
    container = run("sleep 60")
    connection = HTTPConnection(proxy.host, proxy.port, timeout=20)
    connection.request(method, f"/v1.41/containers/{container.id}/{operation}{query}")
    time.sleep(0.5)
    connection.close()

    def ended():
        return [
            line
            for line in proxy.lines()
            if line.get("ended_by") == "client" and line["container"] == container.id[:12]
        ]

    deadline = time.monotonic() + 5
    while not ended():
        assert time.monotonic() < deadline, "the proxy still holds the engine"
        time.sleep(0.05)
    assert ended()[0]["operation"] == operation
    container.reload()
    assert container.status == "running"


def test_many_wait_at_once(run, client):
    container = run("sleep 2")
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(container.wait()["StatusCode"]))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    assert client.ping()
    for thread in threads:
        thread.join(30)
    assert codes == [0] * 20


# The operator leaves the stream it attached unclosed.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_airflows_docker_operator_runs_through_the_proxy(proxy, engine):
    from airflow.providers.docker.hooks.docker import DockerHook
    from airflow.providers.docker.operators.docker import DockerOperator
    from docker.types import Mount

    hook = DockerHook(docker_conn_id=None, base_url=proxy.url)
    assert hook.api_client.ping()
    hook.api_client.close()
    operator = DockerOperator(
        task_id="operator", image=proxy.image, docker_url=proxy.url, network_mode=proxy.network,
        command=["sh", "-c", "echo working; echo done > /tmp/x; cat /tmp/x"], auto_remove="force",
        mount_tmp_dir=False, mounts=[Mount(source=proxy.volume, target="/r", type="volume")],
        shm_size=2**20, labels={"trainyard.run_id": "operator"},
    )  # fmt: skip
    with closing(operator.hook.api_client):
        assert operator.execute({}) == "done"
    gc.collect()
    for operation in ("create", "inspect", "attach", "start", "wait", "remove"):
        assert proxy.line(operation=operation, run_id="operator")["decision"] == "allowed"
    left = {"label": "trainyard.run_id=operator"}
    assert not engine.api.containers(all=True, filters=left)


def test_the_operators_refusal_names_what_to_change(proxy):
    from airflow.providers.docker.operators.docker import DockerOperator

    operator = DockerOperator(
        task_id="operator",
        image=proxy.image,
        docker_url=proxy.url,
        mount_tmp_dir=False,
        command="true",
    )
    wanted = r"NetworkMode.*allowed networks: none"
    with closing(operator.hook.api_client), pytest.raises(docker.errors.APIError, match=wanted):
        operator.execute({})


def test_the_engine_being_away_is_said_in_words(tmp_path, proxy):
    import asyncio
    import io

    from aiohttp.test_utils import TestClient, TestServer

    from trainyard.dockerproxy.audit import Audit
    from trainyard.dockerproxy.policy import Policy
    from trainyard.dockerproxy.server import Proxy

    lines = io.StringIO()
    policy = Policy(images=("a",), networks=("none",), socket=str(tmp_path / "none.sock"))

    async def ask():
        made = Proxy(policy, Audit(lines))
        async with TestClient(TestServer(made.application())) as caller:
            answers = [await caller.get(path) for path in ("/_ping", "/containers/x/json")]
            return [(answer.status, (await answer.json())["message"]) for answer in answers]

    for status, message in asyncio.run(ask()):
        assert status == 502
        assert "none.sock does not answer" in message
    assert {json.loads(line)["decision"] for line in lines.getvalue().splitlines()} == {"failed"}


def test_the_docker_backends_engine_works_through_the_proxy(proxy):
    from trainyard.docker.engine import local_engine
    from trainyard.docker.site import DockerSite

    engine = local_engine(DockerSite(image=proxy.image, host=proxy.url))
    assert engine.version().api
    assert "HttpProxy" not in engine.info()
    assert engine.image(proxy.image).id.startswith("sha256:")
    name = f"{proxy.network}-backend"
    body = {
        "Image": proxy.image,
        "Cmd": ["sh", "-c", "echo started; sleep 60"],
        "Labels": {"trainyard.managed": "true"},
        "HostConfig": {
            "NetworkMode": proxy.network,
            "Init": True,
            "ReadonlyRootfs": True,
            "Mounts": [{"Type": "volume", "Source": proxy.volume, "Target": "/srv/runs"}],
            "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=1048576"},
        },
    }
    engine.create(name, body)
    try:
        engine.start(name)
        engine.start(name)
        assert engine.inspect(name).status == "running"
        deadline = time.monotonic() + 10
        while "started" not in engine.log_tail(name):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        engine.signal(name, "SIGKILL")
        while not engine.inspect(name).is_over:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        engine.remove(name)
    assert engine.inspect(name) is None
    engine.remove(name)
