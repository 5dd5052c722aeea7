"""The tasks of a pipeline with an Apptainer site: the plan names the image, the check starts it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.fakes.airflow_context import context
from tests.fixtures.settings import make_settings
from trainer.contract import Dataset
from trainyard.errors import ConfigurationError
from trainyard.operators.tasks import PlanStudyOperator, VerifyEnvironmentOperator
from trainyard.study import launch_of, run_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Settings with one site, whose image is a small file and whose Apptainer says no."""
    make_settings(tmp_path)
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    (tmp_path / "trainer.sif").write_bytes(b"image")
    program = tmp_path / "apptainer"
    program.write_text("#!/bin/sh\necho 'FATAL:   not today' >&2\nexit 255\n")
    program.chmod(0o755)
    (tmp_path / "sites.toml").write_text(
        f'[box]\npython = "/opt/trainer/bin/python"\nruns_dir = "{tmp_path}/runs"\n'
        f'data_dir = "{tmp_path}/data"\ncores = 2\n[box.apptainer]\n'
        f'image = "{tmp_path}/trainer.sif"\nexecutable = "{program}"\n'
    )
    return tmp_path


def plan() -> list:
    operator = PlanStudyOperator(
        task_id="plan", suite="single", dataset_digest="", lanes={"trainyard_cpu": "run"},
        in_study=False, site="box",
    )  # fmt: skip
    return operator.execute(context({"dataset": Dataset.SYNTHETIC, "ranks": [1]}, task_id="plan"))


def test_a_plan_names_the_image_and_its_runs_record_it(place):
    run = run_of(plan()[0])
    digest = f"sha256:{hashlib.sha256(b'image').hexdigest()}"
    assert run.study.site.apptainer.identity.digest == digest
    assert dict(launch_of(run).env)["TRAINYARD_IMAGE_DIGEST"] == digest
    assert (place / "trainer.sif.identity.json").exists()


def test_a_study_without_its_image_is_not_planned(place):
    Path(place / "trainer.sif").unlink()
    with pytest.raises(ConfigurationError, match="build it or copy it there"):
        plan()
    assert not (place / "runs").exists()


def test_the_environment_check_asks_the_image_and_not_the_host(place, monkeypatch):
    """The host has no such Python; what counts is the one in the image."""
    seen = {}

    def verify(settings, site, *, dag_run_id, place):
        seen.update({name: check(settings, site) for name, check in place.items()
                     if name in {"apptainer", "trainer"}})  # fmt: skip
        return []

    monkeypatch.setattr("trainyard.environment.verify", verify)
    VerifyEnvironmentOperator(task_id="verify", site="box", probes="none").execute(
        context(task_id="verify")
    )
    assert seen["trainer"].measured == "exit code 255: FATAL:   not today"
    assert seen["apptainer"].verdict == "failed"
