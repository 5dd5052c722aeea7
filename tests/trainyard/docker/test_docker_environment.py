"""What ``verify_environment`` says of a Docker site, with the trainer's image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.docker_runs import docker_site
from trainyard.docker.engine import local_engine
from trainyard.docker.site import Pull
from trainyard.environment import verify
from trainyard.environment_docker import docker_checks
from trainyard.settings import Settings
from trainyard.store import Verdict

pytestmark = pytest.mark.slow
OURS = {"docker engine", "docker image", "docker mounts", "trainer", "cores", "gpus"}


@pytest.fixture
def findings(tmp_path):
    settings = Settings(
        results_url=f"sqlite:///{tmp_path}/results.db",
        s3_endpoint="127.0.0.1:9",
        s3_access_key="key",
        s3_secret_key="secret",
        mlflow_url="http://127.0.0.1:9",
        reports_dir=str(tmp_path),
        sites_file="",
        downloads_dir=str(tmp_path),
    )

    def look(site):
        checks = verify(settings, site, place=docker_checks(site, local_engine(site.docker)))
        return {check.name: check for check in checks if check.name in OURS}

    return look


def test_a_site_that_is_ready(findings, tmp_path, images):
    site = replace(docker_site(tmp_path, images["trainer"]), python="/opt/trainer/bin/python")
    found = findings(site)
    assert set(found) == OURS
    bad = {name: one for name, one in found.items() if one.verdict == Verdict.FAILED}
    assert not bad
    assert "torch 2." in found["trainer"].measured
    assert "a container from start to end" in found["trainer"].measured
    assert f"writes {site.runs_dir} and reads {site.data_dir}" in found["docker mounts"].measured
    assert "sha256:" in found["docker image"].measured
    assert found["gpus"].verdict == Verdict.SKIPPED
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".probe")]


def test_an_image_without_the_trainer_is_told_with_its_last_words(findings, tmp_path, shell_image):
    site = replace(docker_site(tmp_path, shell_image), python="/opt/trainer/bin/python")
    found = findings(site)
    assert found["docker image"].verdict == Verdict.PASSED
    told = {found[name].detail for name in ("trainer", "docker mounts")}
    assert any("No such file or directory" in text for text in told), told
    assert found["trainer"].verdict == Verdict.FAILED


def test_an_image_that_is_not_there(findings, tmp_path):
    site = docker_site(tmp_path, "trainyard/nothing:here")
    found = findings(site)
    assert found["docker image"].verdict == Verdict.FAILED
    assert "make images" in found["docker image"].detail
    pulls = replace(site, docker=replace(site.docker, pull=Pull.MISSING))
    image = docker_checks(pulls, local_engine(pulls.docker))["docker image"]
    assert image(None, pulls).verdict == Verdict.WARNING


def test_gpus_without_their_runtime(findings, tmp_path, shell_image):
    site = replace(docker_site(tmp_path, shell_image), gpus_per_node=1)
    found = findings(site)
    told = {found[name].detail for name in ("trainer", "docker mounts", "gpus")}
    assert any("NVIDIA container toolkit" in text for text in told), told
    assert found["gpus"].verdict == Verdict.FAILED


def test_no_engine(findings, tmp_path):
    site = docker_site(tmp_path, "trainyard/trainer:dev", host=f"unix://{tmp_path}/none.sock")
    found = findings(site)
    assert found["docker engine"].verdict == Verdict.FAILED
    assert "does not exist. Start it" in found["docker engine"].detail
