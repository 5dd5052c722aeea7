"""Would runs find their profiler: what ``verify_environment`` says on each kind of site."""

from __future__ import annotations

import pytest

from tests.fakes.runs import site
from trainyard.apptainer.site import ApptainerSite
from trainyard.docker.site import DockerSite
from trainyard.environment_profilers import judge, profiler_checks
from trainyard.sites import Launcher
from trainyard.slurm.site import SlurmSite

FOUND = {
    "nsys": "/opt/nsys",
    "nsys_problem": "",
    "ncu": "/opt/ncu",
    "ncu_problem": "the driver restricts GPU counters (ERR_NVGPUCTRPERM)",
}


DOCKER = {"launcher": Launcher.DOCKER, "docker": DockerSite(image="trainer:dev")}
PROXIED = {
    "launcher": Launcher.DOCKER,
    "docker": DockerSite(image="trainer:dev", host="tcp://docker-proxy:2375"),
}
IMAGE = {"apptainer": ApptainerSite(image="/images/trainer.sif")}
SLURM = {"launcher": Launcher.SLURM, "slurm": SlurmSite()}


def test_the_site_s_python_is_asked(tmp_path):
    asked = []

    def look(code):
        asked.append(code)
        return FOUND

    (check,) = profiler_checks("nsys", look).values()
    found = check(None, site(tmp_path))
    assert (found.verdict, found.measured) == ("passed", "/opt/nsys")
    assert "trainer" in asked[0]


def test_a_profiler_without_permission_fails_and_says_so(tmp_path):
    found = judge("ncu", site(tmp_path), FOUND)
    assert (found.verdict, found.measured) == ("failed", "not permitted")
    assert "ERR_NVGPUCTRPERM" in found.fix
    assert "profiler = 'torch'" in found.fix


def test_a_profiler_that_is_not_there_fails(tmp_path):
    found = judge("nsys", site(tmp_path), {"nsys": "", "nsys_problem": "no nsys on PATH"})
    assert (found.verdict, found.measured) == ("failed", "not found")
    assert found.fix.startswith("no nsys on PATH")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ({}, "install it under /opt/nvidia/nsight-systems"),
        (DOCKER, 'add "/opt/nvidia/nsight-systems:/opt/nvidia/nsight-systems:ro" to docker.'),
        (PROXIED, 'binds = ["/opt/nvidia/nsight-systems"] in its policy'),
        (IMAGE, 'systems:/opt/nvidia/nsight-systems:ro" to apptainer.binds'),
        (SLURM, "name its module in slurm.modules"),
    ],
)
def test_what_is_missing_is_told_with_the_line_to_write(tmp_path, place, says):
    found = judge("nsys", site(tmp_path, **place), {"nsys": "", "nsys_problem": "none"})
    assert says in found.fix
    assert ("policy" in found.fix) is (place is PROXIED)
    assert found.verdict == ("warning" if "slurm" in place else "failed")
    permitted = judge("ncu", site(tmp_path, **place), FOUND)
    assert "/opt/nvidia" not in permitted.fix, "it is there"


def test_a_login_node_that_cannot_be_asked_stops_nothing(tmp_path):
    from trainyard.errors import UnavailableError

    def look(_code):
        raise UnavailableError("no python there")

    (check,) = profiler_checks("nsys", look).values()
    assert check(None, site(tmp_path, **SLURM)).verdict == "warning"
    with pytest.raises(UnavailableError):
        check(None, site(tmp_path))


def test_the_code_runs_in_the_trainer_s_environment(tmp_path):
    from tests.fixtures.airflow import TRAINER
    from tests.requirements import need
    from trainyard.environment_profilers import CODE
    from trainyard.hooks.profilers import python_of

    need(TRAINER.exists(), f"the trainer's environment is missing ({TRAINER}): make setup-test")
    found = python_of(site(tmp_path, python=str(TRAINER)))(CODE)
    assert set(found) == {"nsys", "nsys_problem", "ncu", "ncu_problem"}
    for tool in ("nsys", "ncu"):
        assert bool(found[tool]) or "Install Nsight" in found[f"{tool}_problem"]


def test_a_python_that_fails_is_told_with_its_last_words(tmp_path):
    from trainyard.errors import UnavailableError
    from trainyard.hooks.profilers import python_of

    with pytest.raises(UnavailableError, match=r"ended with 1: .*see the check `trainer`"):
        python_of(site(tmp_path))("raise SystemExit('no')")


def test_a_cluster_is_asked_after_its_modules(tmp_path, monkeypatch):
    """A module that puts a profiler on the PATH, as those of clusters do."""
    from tests.fixtures.airflow import TRAINER
    from tests.requirements import need
    from trainyard.environment_profilers import CODE
    from trainyard.hooks.profilers import python_of

    need(TRAINER.exists(), f"the trainer's environment is missing ({TRAINER}): make setup-test")
    tool = tmp_path / "nsight/bin/nsys"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    loads = f'() {{ [ "$*" = "load nsight/2025.1" ] && PATH={tool.parent}:$PATH; }}'
    monkeypatch.setenv("BASH_FUNC_module%%", loads)
    slurm = SlurmSite(modules=("nsight/2025.1",))
    cluster = site(tmp_path, python=str(TRAINER), launcher=Launcher.SLURM, slurm=slurm)
    assert python_of(cluster)(CODE)["nsys"] == str(tool)
