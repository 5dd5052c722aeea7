"""docker-compose.yaml as Compose renders it: every service, in every combination of its parts."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.requirements import need
from trainyard.compose import keys, render

ROOT = Path(__file__).resolve().parents[3]
PROFILES = ("celery", "gpu", "slurm")
TLS = "docker-compose.tls.yaml"
ONE_SHOTS = {"airflow-init", "minio-setup"}
OURS = re.compile(r"trainyard/(airflow|trainer|mlflow|slurm|docker-proxy):dev")
CAPABILITIES = {"dcgm-exporter": ["SYS_ADMIN"]}
"""What a service adds to none, and the compose file says why."""
LOOSE = {
    ("grafana", "prometheus"),  # shows an empty page until it answers
    ("tls-proxy", "airflow-apiserver"),  # says 502 until it answers
    ("slurm-node-1", "slurmctld"),  # which waits for the names of its nodes
    ("slurm-node-2", "slurmctld"),
}


def compose(*arguments: str) -> str:
    asked = ["docker", "compose", "version", "--short"]
    try:
        there = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        there = False
    need(there, "docker with the compose plugin (docs/stack.md)")
    done = subprocess.run(
        ["docker", "compose", "--project-directory", str(ROOT), "--env-file", "/dev/null",
         *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def rendered(profiles: tuple[str, ...] = PROFILES, tls: bool = False, packages: bool = False):
    files = ["docker-compose.yaml"]
    files += ["tests/compose/docker-compose.packages.yaml"] if packages else []
    files += [TLS] if tls else []
    files += ["tests/compose/docker-compose.packages-tls.yaml"] if packages and tls else []
    arguments = [part for name in files for part in ("--file", str(ROOT / name))]
    arguments += [part for name in profiles for part in ("--profile", name)]
    return json.loads(compose(*arguments, "config", "--format", "json"))


def services(**options):
    return rendered(**options)["services"].items()


SERVICES = sorted(
    set(re.findall(r"^  ([a-z][a-z0-9-]+):\n    <<: ", (ROOT / "docker-compose.yaml").read_text(),
                   re.MULTILINE))
)  # fmt: skip


@pytest.fixture(params=SERVICES)
def service(request):
    return request.param, rendered()["services"][request.param]


def test_the_list_of_services_is_complete():
    assert set(SERVICES) == set(rendered()["services"])


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "profiles",
    [found for size in range(4) for found in itertools.combinations(PROFILES, size)],
    ids=lambda found: "+".join(found) or "none",
)
def test_every_combination_of_parts_is_a_valid_project(profiles, tls):
    found = rendered(profiles, tls)["services"]
    assert ("redis" in found) == ("celery" in profiles)
    assert ("dcgm-exporter" in found) == ("gpu" in profiles)
    assert ("slurmctld" in found) == ("slurm" in profiles)
    assert ("tls-proxy" in found) == tls
    for name, text in found.items():
        assert set(text.get("depends_on", {})) <= set(found), name


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_nothing_is_published_beyond_loopback(tls):
    published = {
        (name, port["host_ip"], port["published"])
        for name, text in services(tls=tls)
        for port in text.get("ports", ())
    }
    assert published
    assert {address for _, address, _ in published} == {"127.0.0.1"}
    listed = keys.TLS_PORTS if tls else keys.PORTS
    assert {(name, int(number)) for name, _, number in published} == {
        (port.service, port.number) for port in listed
    }


def test_no_service_shares_a_namespace_of_the_host(service):
    name, text = service
    for key in ("network_mode", "pid", "ipc", "userns_mode", "privileged", "devices"):
        assert not text.get(key), (name, key)


def test_every_image_is_pinned_to_a_full_version_without_a_registry(service):
    name, text = service
    image = text["image"]
    if OURS.fullmatch(image):
        return
    path, _, tag = image.partition(":")
    assert re.search(r"\d+\.\d+\.\d+|\d+\.\d+-bookworm|RELEASE\.\d{4}", tag), (name, image)
    assert "." not in path.split("/")[0], f"{image}: names a registry's host"


def test_every_service_is_contained(service):
    name, text = service
    assert text["cap_drop"] == ["ALL"], name
    assert text.get("cap_add", []) == CAPABILITIES.get(name, []), name
    assert text["security_opt"] == ["no-new-privileges:true"], name
    assert text["read_only"] is True, name


def test_every_service_has_limits_and_its_log_is_rotated(service):
    name, text = service
    limits = text["deploy"]["resources"]["limits"]
    assert 0 < float(limits["cpus"]) <= 2, f"{name}: more cores than the smallest machine has"
    assert int(limits["memory"]) >= 2**27, name
    assert limits["pids"] >= 50, name
    assert text["logging"]["driver"] == "json-file", name
    assert text["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name


def test_every_service_is_restarted_and_watched_and_a_job_runs_once(service):
    name, text = service
    if name in ONE_SHOTS:
        assert text["restart"] == "no"
        assert text["healthcheck"]["disable"] is True
    else:
        assert text["restart"] == "unless-stopped", name
        assert text["healthcheck"]["test"], name


def test_services_start_after_what_they_need_is_ready():
    for name, text in services():
        for other, how in text.get("depends_on", {}).items():
            if other in ONE_SHOTS:
                assert how["condition"] == "service_completed_successfully", (name, other)
            elif (name, other) not in LOOSE:
                assert how["condition"] == "service_healthy", (name, other)


def test_only_the_proxy_has_dockers_socket():
    with_socket = {
        name
        for name, text in services()
        for volume in text.get("volumes", ())
        if "docker.sock" in volume["source"]
    }
    assert with_socket == {"docker-proxy"}
    assert rendered()["services"]["docker-proxy"]["volumes"][0]["read_only"] is True


def test_only_who_starts_runs_reaches_the_proxy():
    near = {name for name, text in services() if "docker-api" in text["networks"]}
    assert near == {"docker-proxy", "airflow-scheduler", "airflow-triggerer", "airflow-worker"}
    assert set(rendered()["services"]["docker-proxy"]["networks"]) == {"docker-api"}
    networks = rendered()["networks"]
    assert all(networks[name]["internal"] for name in ("docker-api", "ranks", "cluster"))


def values():
    return {key.name: key.make() for key in keys.KEYS}


def test_no_secret_is_in_an_environment_or_a_command_line():
    """Each secret of .env is given a value and the rendered project is searched for it."""
    known = values()
    found = rendered()["services"]
    # Compose knows .env by interpolation alone: no variable in the files may be a secret.
    text = "".join((ROOT / name).read_text() for name in ("docker-compose.yaml", TLS))
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert not used & {key.name for key in keys.KEYS if key.secret}
    assert known
    sensitive = re.compile(r"PASSWORD|SECRET|FERNET|_KEY|TOKEN|_CONN|BROKER|BACKEND|CREDENTIAL")
    for name, service in found.items():
        for variable, value in service.get("environment", {}).items():
            if sensitive.search(variable):
                harmless = (
                    variable.endswith(("_CMD", "_FILE", "__FILE"))
                    or value.startswith("/run/secrets/")
                    or variable in {"AIRFLOW__CORE__TEST_CONNECTION",
                                    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS"}
                )  # fmt: skip
                assert harmless, (name, variable)


def test_every_secret_file_that_a_service_reads_is_written():
    known = values() | {"COMPOSE_PROFILES": "slurm"}
    place = render.Place(project="p", cores=2, profiles=frozenset({"slurm"}))
    written = set(render.files(known, place))
    for name, secret in rendered(tls=True)["secrets"].items():
        path = Path(secret["file"])
        if path.parent.name != "tls":
            assert path.name in written, name


def test_every_file_that_is_mounted_is_there():
    for name, text in services(tls=True):
        for volume in text.get("volumes", ()):
            if volume["type"] == "bind" and volume["source"].startswith(str(ROOT)):
                assert Path(volume["source"]).exists(), (name, volume["source"])


def test_the_replacements_keep_every_command_and_every_guard():
    """Only images, and what the override says of the object store, differ from the real file."""
    real, replaced = rendered()["services"], rendered(packages=True)["services"]
    assert set(real) - set(replaced) == {"grafana", "statsd-exporter"}
    kept = ("cap_drop", "security_opt", "read_only", "restart", "logging", "user", "tmpfs")
    for name, text in replaced.items():
        for key in kept:
            assert text.get(key) == real[name].get(key), (name, key)
        if name not in {"minio", "minio-setup"}:
            for key in ("command", "entrypoint", "healthcheck", "secrets", "volumes"):
                assert text.get(key) == real[name].get(key), (name, key)
