"""What `make up` says when something is in the way, and how it follows a start."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from trainyard.compose import checks, keys, stack, wait
from trainyard.compose.engine import Container, Engine, check_compose, engine, parse_containers
from trainyard.errors import ConfigurationError, UnavailableError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def values():
    return {key.name: key.make() for key in keys.KEYS}


@pytest.fixture
def fake_docker(tmp_path, monkeypatch):
    """Puts a script called docker first on the PATH; the real one cannot be made to fail so."""

    def put(script: str) -> None:
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return put


def config(*ports: tuple[str, int]) -> dict:
    services = {}
    for name, number in ports:
        services[name] = {"ports": [{"host_ip": "127.0.0.1", "published": str(number)}]}
    return {"services": services}


def test_without_docker_the_error_names_the_way_without_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"not installed.*`make demo`"):
        check_compose()


def test_without_the_plugin_the_error_names_its_packages(fake_docker):
    fake_docker("echo \"docker: 'compose' is not a docker command.\" >&2; exit 1")
    with pytest.raises(UnavailableError, match=r"docker-compose-plugin.*is not a docker command"):
        check_compose()


@pytest.mark.parametrize(("found", "fits"), [("2.24.3", False), ("v2.24.4", True),
                                             ("2.26.1-4", True), ("3.0.0-rc.1", True)])  # fmt: skip
def test_an_old_plugin_is_refused_by_number(fake_docker, found, fits):
    fake_docker(f"echo {found}")
    if fits:
        check_compose()
    else:
        with pytest.raises(UnavailableError, match=r"Compose is 2.24.3.*2.24.4 or newer"):
            check_compose()


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("permission denied while trying to connect to the Docker daemon socket", "usermod"),
        ("Cannot connect to the Docker daemon at unix:///x. Is it running?", "systemctl start"),
    ],
)
def test_an_engine_that_does_not_answer_is_explained(fake_docker, words, advice):
    fake_docker(f"echo '{words}' >&2; exit 1")
    with pytest.raises(UnavailableError, match=advice):
        engine()


def test_an_engine_error_within_a_good_answer_is_seen(fake_docker):
    answer = json.dumps({"ServerErrors": ["Cannot connect to the Docker daemon at unix:///x"]})
    fake_docker(f"echo '{answer}'")
    with pytest.raises(UnavailableError, match="systemctl start"):
        engine()


def test_a_taken_port_is_named_with_its_variable_and_service(values):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
        values["MLFLOW_PORT"] = str(number)
        with pytest.raises(ConfigurationError, match=f"MLFLOW_PORT = {number}.*mlflow needs"):
            checks.check_ports(config(("mlflow", number)), values)
        checks.check_ports(config(("mlflow", number)), values, own=[number])
    checks.check_ports(config(("mlflow", number)), values)


def test_two_services_on_one_port_are_refused(values):
    values["GRAFANA_PORT"] = "5000"
    with pytest.raises(ConfigurationError, match="= 5000: mlflow and grafana cannot share"):
        checks.check_ports(config(("grafana", 5000), ("mlflow", 5000)), values)


def test_too_little_memory_or_disk_is_a_number_and_a_way_out(tmp_path, monkeypatch):
    small = Engine(cores=2, memory_bytes=4 * 2**30, root=str(tmp_path))
    with pytest.raises(UnavailableError, match=r"4\.0 GiB of memory, the stack needs 6"):
        checks.check_room(small, images=True)
    enough = Engine(cores=2, memory_bytes=16 * 2**30, root=str(tmp_path))
    checks.check_room(enough, images=True)
    monkeypatch.setattr(checks, "LEAST_DISK", 2**60)
    with pytest.raises(UnavailableError, match=r"GiB free, the stack needs.*docker system df"):
        checks.check_room(enough, images=True)
    # The engine's folder may be on another machine.
    checks.check_room(Engine(cores=2, memory_bytes=2**34, root="/nowhere"), images=True)


def test_an_unknown_profile_or_file_is_refused_with_the_choices(values, tmp_path):
    options = stack.Options(root=ROOT, env_file=tmp_path / ".env", profiles="slurm,gpus")
    with pytest.raises(ConfigurationError, match="'gpus' is unknown; choose from celery, gpu"):
        stack.describe(options, values)
    options = stack.Options(root=ROOT, env_file=tmp_path / ".env", files="compose.yml")
    with pytest.raises(ConfigurationError, match=r"'compose.yml'.*docker-compose.tls.yaml"):
        stack.describe(options, values)


def test_the_celery_profile_brings_its_executor(values, tmp_path):
    options = stack.Options(root=ROOT, env_file=tmp_path / ".env", profiles="celery slurm")
    made = stack.describe(options, values).compose
    assert made.environment["TRAINYARD_EXECUTOR"] == "CeleryExecutor"
    assert made.profiles == ("celery", "slurm")
    options = stack.Options(root=ROOT, env_file=tmp_path / ".env")
    made = stack.describe(options, values | {"COMPOSE_PROFILES": "slurm"}).compose
    assert made.environment["TRAINYARD_EXECUTOR"] == "LocalExecutor"


def test_a_lost_env_beside_its_data_is_refused_before_a_new_one_is_made(fake_docker, tmp_path):
    fake_docker("echo trainyard_postgres")
    options = stack.Options(root=ROOT, env_file=tmp_path / ".env")
    with pytest.raises(ConfigurationError, match="trainyard_postgres holds data of an earlier"):
        stack.prepare(options)
    assert not options.env_file.exists()


def test_commands_on_no_stack_say_so(tmp_path, fake_docker):
    fake_docker("echo 2.30.0")
    options = stack.Options(root=ROOT, env_file=tmp_path / ".env")
    for command in (stack.status, lambda o: stack.down(o, volumes=False),
                    lambda o: stack.logs(o, "")):  # fmt: skip
        with pytest.raises(ConfigurationError, match="no stack was made; run `make up`"):
            command(options)


def test_a_bare_python_runs_the_commands():
    """On a machine with Docker nothing of ours is installed: the standard library must do."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path[:0] = [{str(ROOT / 'plugins')!r}, {str(ROOT)!r}];"
         "from trainyard.compose.__main__ import main; main(['--help'])"],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "status" in done.stdout


ROWS = [
    {"Service": "a", "Name": "p-a-1", "State": "running", "Health": "healthy", "ExitCode": 0,
     "Publishers": [{"PublishedPort": 80}, {"PublishedPort": 0}, {"PublishedPort": 80}]},
    {"Service": "b", "Name": "p-b-1", "State": "exited", "Health": "", "ExitCode": 0,
     "Publishers": None},
    {"Service": "c", "Name": "p-c-1", "State": "running", "Health": "starting", "ExitCode": 0},
]  # fmt: skip


@pytest.mark.parametrize(
    "text", [json.dumps(ROWS), "\n".join(map(json.dumps, ROWS)), ""], ids=["list", "lines", "none"]
)
def test_both_forms_of_composes_list_are_read(text):
    found = parse_containers(text)
    if text:
        assert [item.is_well(once=False) for item in found] == [True, False, False]
        assert [item.is_well(once=True) for item in found] == [False, True, False]
        assert found[0].ports == (80,)
        assert [item.told for item in found] == ["healthy", "done", "starting"]
    else:
        assert found == []


def container(name: str, state: str, health: str = "", code: int = 0) -> Container:
    return Container(service=name, name=f"p-{name}-1", state=state, health=health,
                     exit_code=code, ports=())  # fmt: skip


def test_progress_counts_what_is_well_and_names_the_rest():
    found = [container("a", "running", "healthy"), container("b", "exited", code=3),
             container("c", "running", "unhealthy"), container("d", "exited"),
             container("f", "running")]  # fmt: skip
    wanted = dict.fromkeys("abcef", False) | {"d": True}
    waiting = wait.unwell(found, wanted)
    assert waiting == {
        "b": "exited with 3", "c": "unhealthy", "e": "waiting", "f": "running"
    }  # fmt: skip
    line = wait.progress(6, waiting, 12.3)
    shown = "b exited with 3, c unhealthy, e waiting and 1 more"
    assert line == f"  12 s  2 of 6 services are well; {shown}"


def test_the_line_is_written_once_per_change_where_there_is_no_terminal():
    stream = io.StringIO()
    line = wait.ProgressLine(stream)
    for text in ("  1 s  1 of 2", "  2 s  1 of 2", "  3 s  2 of 2"):
        line.show(text)
    line.end()
    assert stream.getvalue() == "  1 s  1 of 2\n  3 s  2 of 2\n"
