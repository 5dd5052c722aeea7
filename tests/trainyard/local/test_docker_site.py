"""``make demo SITE=docker``: the site it adds, and what it says where it cannot."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from trainyard.errors import UnavailableError
from trainyard.local import docker as module
from trainyard.local.docker import docker_site
from trainyard.sites import Launcher, parse_sites


def test_without_an_engine_it_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(UnavailableError, match=r"does not exist[\s\S]*Without one: make demo"):
        docker_site(tmp_path)


@pytest.mark.slow
def test_a_stack_that_stops_leaves_no_container(tmp_path, shell_image):
    from tests.fakes.docker_runs import Run
    from trainyard.backends import State
    from trainyard.local.state import toml

    run = Run(tmp_path, shell_image, "sleep 60; exit 0")
    place = {"launcher": "docker", "python": run.site.python, "cores": 2}
    place |= {"runs_dir": run.site.runs_dir, "data_dir": run.site.data_dir}
    text = f"[docker]\n{toml(place)}[docker.docker]\n{toml({'image': shell_image})}"
    (tmp_path / "sites.toml").write_text(text)
    run.start()
    module.end_runs(tmp_path)
    assert run.observe().state is State.CANCELLED
    assert run.left() == []


class TestWithAnEngine:
    @pytest.fixture
    def engine(self, monkeypatch):
        """The engine's answer about the image; real ones are in the backend's tests."""
        found = SimpleNamespace(image=None)
        monkeypatch.setattr(
            module, "local_engine", lambda docker: SimpleNamespace(image=lambda name: found.image)
        )
        return found

    def test_the_site_is_this_machine_in_the_trainers_image(self, engine, tmp_path, monkeypatch):
        engine.image = object()
        monkeypatch.setenv("TRAINYARD_TAG", "nightly")
        site = parse_sites(docker_site(tmp_path), "sites.toml")["docker"]
        assert site.launcher is Launcher.DOCKER
        assert site.docker.image == "trainyard/trainer:nightly"
        assert site.python == "/opt/trainer/bin/python"
        assert site.runs_dir == str(tmp_path / "runs")

    @pytest.mark.parametrize("code", [0, 2])
    def test_a_missing_image_is_built_first(self, engine, tmp_path, monkeypatch, code):
        commands = []

        def run(command, **options):
            commands.append(command)
            return subprocess.CompletedProcess(command, code)

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.delenv("TRAINYARD_TAG", raising=False)
        if code:
            with pytest.raises(UnavailableError, match="make images failed with exit code 2"):
                docker_site(tmp_path)
        else:
            docker_site(tmp_path)
        assert commands == [["make", "images", "IMAGES=trainer", "TAG=dev"]]
