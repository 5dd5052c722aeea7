"""What the proxy refuses, tried on a real engine: each attack fails, and is in the audit log."""

from __future__ import annotations

import json
import socket
import time
from http.client import HTTPConnection

import docker
import pytest

pytestmark = pytest.mark.slow
ATTACK = "trainyard.test.attack"


def call(proxy, method, path, body=None, headers=None):
    """Send one request as an attacker would; return status and decoded answer."""
    connection = HTTPConnection(proxy.host, proxy.port, timeout=20)
    data = json.dumps(body) if isinstance(body, dict) else body
    kind = {"Content-Type": "application/json"} if isinstance(body, dict | bytes | str) else {}
    try:
        connection.request(method, path, data, {**kind, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    return answer.status, json.loads(text) if text.startswith(b"{") else text


def refused(proxy, method, path, body=None, headers=None):
    """Assert that the request is refused in a way the SDK shows, and logged; return the message."""
    before = len(proxy.lines())
    status, answer = call(proxy, method, path, body, headers)
    assert status in {400, 403, 411, 413}, (status, answer)
    assert answer["message"].startswith("docker proxy refuses "), answer
    line = _line_of(proxy, before)
    assert line["rule"] in answer["message"]
    return answer["message"]


def _line_of(proxy, before):
    """Return the one refusal since *before*; it is written after its answer was sent."""
    deadline = time.monotonic() + 5
    while True:
        found = [line for line in proxy.lines()[before:] if line["decision"] == "refused"]
        if found or time.monotonic() > deadline:
            (line,) = found
            return line
        time.sleep(0.02)


def body(proxy, host=None, **config):
    return {
        "Image": proxy.image,
        "Cmd": ["sleep", "300"],
        "Labels": {ATTACK: "yes"},
        "HostConfig": {"NetworkMode": "none", **(host or {})},
        **config,
    }


CREATIONS = {
    "privileged": {"host": {"Privileged": True}},
    "root of the host": {"host": {"Binds": ["/:/host"]}},
    "engine's socket": {"host": {"Binds": ["/var/run/docker.sock:/var/run/docker.sock"]}},
    "root by a volume": {
        "host": {
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "VOLUME",
                    "Target": "/host",
                    "VolumeOptions": {
                        "DriverConfig": {
                            "Name": "local",
                            "Options": {"type": "none", "o": "bind", "device": "/"},
                        }
                    },
                }
            ]
        }
    },
    "host processes": {"host": {"PidMode": "host"}},
    "host network": {"host": {"NetworkMode": "host"}},
    "another's processes": {"host": {"PidMode": "container:FOREIGN"}},
    "another's volumes": {"host": {"VolumesFrom": ["FOREIGN"]}},
    "capability": {"host": {"CapAdd": ["SYS_ADMIN"]}},
    "disk": {"host": {"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/d"}]}},
    "seccomp": {"host": {"SecurityOpt": ["seccomp=unconfined"]}},
    "old place of the host config": {"Privileged": True},
    "root": {"User": "root"},
    "foreign image": {"Image": "probe-base:bookworm"},
    "for ever": {"host": {"RestartPolicy": {"Name": "always"}}},
    "memory": {"host": {"Memory": 2**40}},
}


@pytest.mark.parametrize("name", CREATIONS)
def test_no_container_reaches_outside(proxy, engine, foreign, name):
    text = json.dumps(CREATIONS[name])
    text = text.replace("FOREIGN", foreign.id).replace("VOLUME", proxy.volume)
    message = refused(proxy, "POST", "/v1.41/containers/create", body(proxy, **json.loads(text)))
    assert ": " in message
    made = engine.api.containers(all=True, filters={"label": ATTACK})
    assert not made, "the engine made a container all the same"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/containers/{}/stop"), ("POST", "/containers/{}/kill"),
        ("DELETE", "/containers/{}?force=1"), ("POST", "/containers/{}/start"),
        ("GET", "/containers/{}/json"), ("GET", "/containers/{}/logs?stdout=1"),
        ("GET", "/containers/{}/top"), ("GET", "/containers/{}/stats?stream=0"),
        ("POST", "/containers/{}/wait"), ("POST", "/containers/{}/attach?stdout=1&stream=1"),
        ("POST", "/containers/{}/exec"), ("POST", "/containers/{}/update"),
        ("POST", "/containers/{}/pause"), ("POST", "/containers/{}/restart"),
        ("POST", "/containers/{}/rename?name=x"), ("PUT", "/containers/{}/archive?path=/"),
        ("GET", "/containers/{}/archive?path=/etc/shadow"), ("GET", "/containers/{}/export"),
        ("POST", "/commit?container={}"), ("POST", "/containers/{}/checkpoints"),
    ],
)  # fmt: skip
def test_nobody_elses_container_is_touched_or_read(proxy, engine, foreign, method, path):
    for spelling in (foreign.id, foreign.id[:12], foreign.name):
        message = refused(proxy, method, f"/v1.41{path.format(spelling)}")
        assert "s3cret-of-another" not in message
    foreign.reload()
    assert foreign.status == "running"


def test_a_foreign_container_does_not_show_in_lists(proxy, client, foreign):
    assert foreign.id not in {found.id for found in client.containers.list(all=True)}
    query = "filters=%7B%22label%22%3A%5B%22trainyard.test.dockerproxy%22%5D%7D"
    assert call(proxy, "GET", f"/v1.41/containers/json?all=1&{query}") == (200, b"[]\n")


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/build?t=trainyard/trainer:dev", b""), ("POST", "/images/load", b"x"),
        ("POST", "/images/create?fromImage=alpine&tag=latest", None),
        ("POST", "/images/{}/push", None), ("DELETE", "/images/{}", None),
        ("POST", "/images/{}/tag?repo=x&tag=y", None), ("GET", "/images/get?names={}", None),
        ("POST", "/auth", {"username": "a", "password": "b"}),
        ("POST", "/volumes/create", {"Name": "x", "DriverOpts": {"device": "/", "o": "bind"}}),
        ("GET", "/volumes", None), ("POST", "/networks/create", {"Name": "x"}),
        ("POST", "/networks/bridge/connect", {"Container": "x"}),
        ("POST", "/plugins/pull?remote=x", None), ("POST", "/swarm/init", {}),
        ("GET", "/secrets", None), ("POST", "/services/create", {}), ("GET", "/events", None),
        ("POST", "/session", None), ("GET", "/system/df", None),
        ("POST", "/containers/prune", None),
    ],
)  # fmt: skip
def test_the_rest_of_the_engine_is_out_of_reach(proxy, method, path, sent):
    refused(proxy, method, f"/v1.41{path.format(proxy.image)}", sent)


@pytest.mark.parametrize(
    "text",
    [
        '{"Image": "%s", "HostConfig": {"NetworkMode": "none"},'
        ' "hostconfig": {"Privileged": true}}',
        '{"Image": "%s", "HostConfig": {"NetworkMode": "none", "Privileged": true,'
        ' "Privileged": false}}',
        '{"Image": "%s", "HostConfig": {"NetworkMode": "none", "privileged": true}}',
    ],
)
def test_no_spelling_of_a_field_gets_through(proxy, text):
    refused(proxy, "POST", "/v1.41/containers/create", text % proxy.image)


def test_a_huge_body_is_refused_before_it_is_read_to_its_end(proxy):
    refused(proxy, "POST", "/v1.41/containers/create", b'{"a":"' + b"x" * 2**21 + b'"}')


@pytest.mark.parametrize("path", ["/containers/{}/kill", "/containers/{}/stop", "/images/create"])
def test_a_form_does_not_outrank_the_query(proxy, client, path):
    container = client.containers.create(proxy.image, ["true"], network_mode="none")
    try:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        place = f"/v1.41{path.format(container.id)}"
        refused(proxy, "POST", place, "signal=KILL&fromImage=alpine&t=0", kind)
    finally:
        container.remove(force=True)


def raw(proxy, text, wait_s=5.0):
    """Send *text* as it stands and return everything that comes back until the end."""
    with socket.create_connection((proxy.host, proxy.port), timeout=wait_s) as connection:
        connection.sendall(text)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except TimeoutError:
            pass
    return found


def chunked(payload):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(payload), payload)


@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Content-Length: 2\r\nContent-Length: 60\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n",
    ],
    ids=lambda head: head.decode().replace("\r\n", " "),
)
def test_no_framing_smuggles_a_second_request(proxy, foreign, head):
    inner = f"POST /v1.41/containers/{foreign.id}/kill HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    answer = raw(
        proxy,
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\n" + head + b"\r\n" + chunked(b"{}") + inner,
        2.0,
    )
    for status in answer.split(b"HTTP/1.1 ")[1:]:
        assert status[:3] in {b"400", b"403", b"411"}, answer
    foreign.reload()
    assert foreign.status == "running"


def test_an_upgrade_gets_no_way_to_the_engine(proxy, foreign):
    answer = raw(
        proxy,
        b"POST /v1.41/session HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        2.0,
    )
    assert answer.startswith(b"HTTP/1.1 403")


def test_who_attaches_can_listen_and_not_speak(proxy, client, engine):
    container = client.containers.create(
        proxy.image, ["sh", "-c", "echo hello; read line; echo heard $line"], network_mode="none"
    )
    head = (
        f"POST /v1.41/containers/{container.id}/attach?stdout=1&stream=1 HTTP/1.1\r\nHost: d\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout=20) as connection:
            connection.sendall(head.encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 101")
            connection.sendall(b"spoken\n")
            smuggled = f"POST /containers/{container.id}/exec HTTP/1.1\r\nHost: d\r\n\r\n"
            connection.sendall(smuggled.encode())
            container.start()
            heard = b""
            while piece := connection.recv(4096):
                heard += piece
        assert b"hello" in heard
        assert b"spoken" not in heard + container.logs()
    finally:
        container.remove(force=True)


def test_the_label_cannot_be_given_to_a_foreign_container_by_its_name(proxy, foreign):
    wanted = f"/v1.41/containers/create?name={foreign.name}"
    status, answer = call(proxy, "POST", wanted, body(proxy))
    assert status == 409, answer
    refused(proxy, "POST", f"/v1.41/containers/{foreign.name}/stop")


def test_an_image_by_its_id_must_have_an_allowed_name(proxy, engine, client):
    known = engine.images.get(proxy.image)
    assert client.images.get(known.id).id == known.id
    assert client.images.get(proxy.image).id == known.id
    others = [found for found in engine.images.list() if proxy.image not in found.tags]
    for other in others[:2]:
        refused(proxy, "GET", f"/v1.41/images/{other.id}/json")
        refused(proxy, "POST", "/v1.41/containers/create", body(proxy, Image=other.id))
    assert {tag for found in client.images.list() for tag in found.tags} == {proxy.image}


def test_the_sdk_shows_field_value_and_rule(client, proxy):
    with pytest.raises(docker.errors.APIError) as caught:
        client.containers.run(proxy.image, ["true"], network_mode="none", privileged=True)
    assert caught.value.status_code == 403
    assert "HostConfig.Privileged = True: makes the container root" in str(caught.value)


def test_decisions_are_counted(proxy):
    refused(proxy, "POST", "/v1.41/swarm/init", {})
    deadline = time.monotonic() + 5
    line = 'trainyard_docker_proxy_requests_total{operation="unknown",decision="refused"}'
    text = call(proxy, "GET", "/metrics")[1].decode()
    assert time.monotonic() < deadline
    assert line in text
