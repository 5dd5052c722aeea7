"""The images on a real engine: what is in them, as whom they run, and that each does its work."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.docker_engine import DockerEngine, builder
from trainer.contract import Dataset, Model, RunResult, RunSpec, Status, dumps, loads

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the first test of an image builds it

NAMES = ("trainer", "airflow", "mlflow", "slurm")
LOCKED = ("--init", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
MARK = f"ty-images-{os.getpid()}"
TOOLS = "gcc g++ cc c++ clang ld make cmake pip pip3 uv uvx conda"
USER = 10001


def shell(
    engine: DockerEngine, image: str, script: str, *options: str, timeout: float = 120
) -> str:
    command = ("run", "--rm", *LOCKED, "--tmpfs", "/tmp", "--entrypoint", "sh")
    return engine.run(*command, *options, image, "-c", script, timeout=timeout)


def until(what: Callable[[], Any], seconds: float, why: str) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"{why} did not happen in {seconds} s"
        time.sleep(0.5)
    return found


@pytest.fixture(params=NAMES)
def image(request, images) -> str:
    return images[request.param]


def test_it_runs_as_the_unprivileged_user_and_holds_nothing_that_builds(docker_engine, image):
    found = shell(
        docker_engine,
        image,
        f"id -u; id -g; for tool in {TOOLS}; do command -v $tool; done; ls /var/lib/apt/lists;"
        " for python in /opt/*/bin/python; do"
        "   $python -c 'import importlib.util as u;"
        ' print(*(n for n in ("pip", "uv", "hatchling", "ensurepip") if u.find_spec(n)))\';'
        " done",
    )
    assert found.split() == [str(USER), str(USER)]


def test_it_says_what_is_in_it(docker_engine, image, images):
    name = image.partition("/")[2].partition(":")[0]
    labels = docker_engine.inspect(image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"trainyard/{name}"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.version"] == builder().version()
    assert labels["org.opencontainers.image.base.name"] in {
        images.base,
        "trainyard/trainer-environment:test",
    }
    package, python = {
        "trainer": ("torch", "/opt/trainer/bin/python"),
        "slurm": ("torch", "/opt/trainer/bin/python"),
        "airflow": ("apache-airflow", "/opt/airflow/bin/python"),
        "mlflow": ("mlflow", "/opt/mlflow/bin/python"),
    }[name]
    ask = f"{python} -c 'from importlib.metadata import version; print(version(\"{package}\"))'"
    assert shell(docker_engine, image, ask).strip() == labels[f"trainyard.{package}"]


def test_no_capability_is_left_to_it(docker_engine, image):
    status = shell(docker_engine, image, "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status")
    assert dict(line.split(":\t") for line in status.splitlines()) == {
        "CapEff": "0" * 16,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
    }


def spec_in(folder: Path, **changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "name": "image",
        "model": Model.RESNET18_SMALL,
        "dataset": Dataset.SYNTHETIC,
        "per_rank_batch": 8,
        "global_batch": 8,
        "steps": 6,
        "warmup_steps": 2,
        "window_steps": 2,
        "loader_workers": 0,
    }
    spec = RunSpec(**(values | changes))
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(dumps(spec))
    if os.getuid() == 0:
        os.chown(folder, USER, USER)
    else:
        folder.chmod(0o777)
    return spec


def test_the_trainer_trains_without_network_or_a_writable_root(docker_engine, images, tmp_path):
    spec_in(tmp_path / "run")
    docker_engine.run(
        "run", "--rm", *LOCKED, "--tmpfs", "/tmp", "--network", "none",
        "--volume", f"{tmp_path}/run:/srv/trainyard/runs/one", images["trainer"],
        "python", "-m", "trainer", "/srv/trainyard/runs/one/spec.json", "/srv/trainyard/runs/one",
        timeout=300,
    )  # fmt: skip
    result = loads(RunResult, (tmp_path / "run" / "result.json").read_text())
    assert result.status is Status.COMPLETED
    labels = docker_engine.inspect(images["trainer"])["Config"]["Labels"]
    commit = labels["org.opencontainers.image.revision"]
    assert result.provenance.git_commit == commit.removesuffix("-dirty")
    assert result.provenance.git_dirty is commit.endswith("-dirty")
    assert result.provenance.torch == labels["trainyard.torch"]


def test_another_commit_costs_no_layer(docker_engine, images):
    made = images.built("trainer")
    build = images.builder
    reference = "trainyard/trainer:other-commit"
    arguments = {**images.choice.arguments("trainer"), "COMMIT": "c" * 40, "VERSION": "0"}
    build.docker_build("trainer", arguments, reference)
    try:
        layers = [docker_engine.inspect(i)["RootFS"]["Layers"] for i in (made.reference, reference)]
        assert layers[0] == layers[1]
        environment = docker_engine.inspect(reference)["Config"]["Env"]
        assert f"TRAINYARD_COMMIT={'c' * 40}" in environment
    finally:
        docker_engine.run("image", "rm", reference)


def test_airflow_reads_every_dag_without_a_writable_root(docker_engine, images):
    script = (
        "airflow db migrate >/tmp/log 2>&1 && airflow dags reserialize >>/tmp/log 2>&1"
        " || { tail -n 20 /tmp/log; exit 1; };"
        " airflow dags list-import-errors --output json 2>/dev/null | grep -E '^([[]|No data)';"
        ' python -c \'import sqlite3; base = sqlite3.connect("/srv/airflow/airflow.db");'
        ' print(*(name for name, in base.execute("SELECT dag_id FROM dag")))\''
    )
    home = "/srv/airflow:uid=10001,gid=10001"
    said = shell(
        docker_engine, images["airflow"], script, "--network", "none", "--tmpfs", home, timeout=250
    )
    errors, dags = said.splitlines()
    assert errors in {"[]", "No data found"}
    on_disk = {path.stem for path in (Path(__file__).parents[3] / "dags").glob("*.py")}
    assert set(dags.split()) == on_disk


WHERE_AIRFLOW_LOOKS = """
from importlib.metadata import entry_points
import trainer, trainyard
from trainyard.store.files import SQL_DIR, queries
print(trainer.__file__, trainyard.__file__, SQL_DIR, len(queries()) > 0)
provided = entry_points(group="apache_airflow_provider")
print(*(point.value for point in provided if point.dist.name == "trainyard"))
"""


def test_airflow_finds_its_sql_both_packages_and_the_provider(docker_engine, images):
    script = 'python -c "$CODE"'
    said = shell(docker_engine, images["airflow"], script, "--env", f"CODE={WHERE_AIRFLOW_LOOKS}")
    assert said.split() == [
        "/opt/trainyard/lib/trainer/__init__.py",
        "/opt/trainyard/lib/trainyard/__init__.py",
        "/opt/trainyard/sql",
        "True",
        "trainyard.provider:get_provider_info",
    ]


def test_the_tracking_server_becomes_healthy(docker_engine, images):
    name = f"{MARK}-mlflow"
    docker_engine.run(
        "run", "--detach", "--name", name, *LOCKED, "--tmpfs", "/tmp", "--network", "none",
        "--health-interval", "1s", images["mlflow"], "mlflow", "server", "--host", "127.0.0.1",
        "--workers", "1", "--backend-store-uri", "sqlite:////tmp/mlflow.db",
        "--artifacts-destination", "/tmp/artifacts",
    )  # fmt: skip
    try:

        def healthy() -> bool:
            state = docker_engine.inspect(name)["State"]
            assert state["Running"], docker_engine.run("logs", name, check=False)
            return state["Health"]["Status"] == "healthy"

        until(healthy, 150, "an answer of /health")
    finally:
        docker_engine.run("rm", "--force", name)
