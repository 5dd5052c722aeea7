"""Which engine a site's tasks and triggers use: site, Airflow connection, environment."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace

import pytest

from tests.fakes.runs import site
from trainyard.backends.docker import DockerBackend
from trainyard.docker.engine import DEFAULT_HOST
from trainyard.docker.faults import check_socket
from trainyard.docker.site import DockerSite, Pull
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.hooks.backends import backend_of
from trainyard.hooks.docker import engine_of
from trainyard.sites import Launcher


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    def made(connection: dict | None = None, **docker):
        if connection is not None:
            text = json.dumps({"conn_type": "docker", **connection})
            monkeypatch.setenv("AIRFLOW_CONN_BOX", text)
            docker["connection"] = "box"
        return site(
            tmp_path,
            launcher=Launcher.DOCKER,
            docker=DockerSite(image="trainyard/trainer:dev", **docker),
        )

    return made


def test_a_docker_site_gets_its_backend(make):
    found = backend_of(make(host="tcp://proxy:2375"))
    assert isinstance(found, DockerBackend)
    assert found.engine.host == "tcp://proxy:2375"


def test_the_site_comes_before_connection_environment_and_default(make, monkeypatch):
    there = {"extra": {"docker_url": "tcp://connected:2375"}}
    assert engine_of(make()).host == DEFAULT_HOST
    monkeypatch.setenv("DOCKER_HOST", "tcp://environment:2375")
    assert engine_of(make()).host == "tcp://environment:2375"
    assert engine_of(make(there)).host == "tcp://connected:2375"
    assert engine_of(make(there, host="tcp://site:2375")).host == "tcp://site:2375"


def test_a_connection_of_another_type_is_named(make, monkeypatch):
    place = make({})
    monkeypatch.setenv("AIRFLOW_CONN_BOX", json.dumps({"conn_type": "http"}))
    with pytest.raises(ConfigurationError, match=r"'box' of site 'here' is of type 'http'"):
        engine_of(place)


def test_tls_needs_all_its_files_and_an_address(make):
    files = {name: f"/certs/{name}.pem" for name in ("ca_cert", "client_cert", "client_key")}
    with pytest.raises(ConfigurationError, match="client_key is missing"):
        engine_of(make({"extra": {**files, "client_key": ""}}, host="tcp://box:2376"))
    with pytest.raises(ConfigurationError, match="set docker_url, or remove them"):
        engine_of(make({"extra": files}))
    engine_of(make({"extra": files}, host="tcp://box:2376"))


@pytest.mark.parametrize(
    ("pull", "login"), [(Pull.NEVER, None), (Pull.MISSING, "box"), (Pull.ALWAYS, "box")]
)
def test_the_registry_is_logged_into_only_where_the_site_pulls(make, monkeypatch, pull, login):
    from airflow.providers.docker.hooks import docker as module

    asked: dict[str, object] = {}

    class Hook:
        def __init__(self, **options):
            asked.update(options)

        def get_conn(self):
            raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(module, "DockerHook", Hook)
    account = {"host": "registry.example", "login": "me", "password": "secret"}
    engine = engine_of(make(account, host="tcp://10.0.0.1:2375", pull=pull))
    with pytest.raises(UnavailableError, match="does not answer: nobody there"):
        engine.version()
    assert asked["docker_conn_id"] == login
    assert asked["base_url"] == "tcp://10.0.0.1:2375"


def test_a_closed_port_is_told_with_what_to_look_at(make):
    engine = engine_of(make(host="tcp://127.0.0.1:9"))
    with pytest.raises(UnavailableError, match=r"docker --host tcp://127\.0\.0\.1:9 info"):
        engine.version()


def test_a_socket_that_is_missing_or_that_nobody_listens_on_is_told(tmp_path):
    place = tmp_path / "docker.sock"
    with pytest.raises(UnavailableError, match=r"does not exist\. Start it"):
        check_socket(f"unix://{place}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        with pytest.raises(UnavailableError, match=r"does not answer: .*refused"):
            check_socket(f"unix://{place}")
        listener.listen()
        check_socket(f"unix://{place}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_socket_of_somebody_else_is_told(tmp_path):
    """Asked by nobody's user, since root may use any socket."""
    place = tmp_path / "docker.sock"
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        place.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(UnavailableError, match=r"no permission on .*usermod -aG docker"):
                check_socket(f"unix://{place}")
        finally:
            os.seteuid(0)


@pytest.mark.slow
def test_the_providers_hook_reaches_a_real_engine(make, docker_engine):
    engine = engine_of(make({}, host=docker_engine.host))
    assert engine.version().api
    assert engine.inspect("no-such-container") is None
    assert engine.image("no/such:image") is None


def test_only_docker_sites_have_an_engine(make):
    place = replace(make(), launcher=Launcher.PROCESS, docker=None)
    with pytest.raises(ConfigurationError, match="choose a Docker site"):
        engine_of(place)
