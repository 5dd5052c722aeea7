"""``profile_run`` through Airflow, on a real object store, MLflow and trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainyard.test_dags import ask, run_dag

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def settings_of(home):
    from trainyard.settings import load_settings

    return load_settings(Path(home.env["TRAINYARD_SETTINGS"]))


@pytest.fixture(scope="module")
def home(pipeline_home):
    """The stack with its bucket: verify_environment looks at the bucket's rules."""
    from trainyard.objectstore import ObjectStore

    ObjectStore(settings_of(pipeline_home)).ensure_bucket()
    return pipeline_home


@pytest.fixture(scope="module")
def stalled(home):
    """A planted input stall, and the suggestion against it tried."""
    ran = run_dag(
        home, "profile_run", dataset="digits", ranks=[1], per_rank_batch=16, steps=40, repeats=1,
        profile_steps=10, stall="input", stall_ms=80, try_suggestion=True,
    )  # fmt: skip
    assert ran["state"] == "success", ran["log"][-4000:]
    return ran


@pytest.fixture(scope="module")
def profiles(home, stalled):
    return ask(home, "profiles_of_dag_run", dag_id="profile_run", dag_run_id=stalled["run_id"])


def test_the_planted_input_stall_is_named(profiles, stalled):
    before, _ = profiles
    assert (before["bound"], before["mode"], before["pairs"]) == ("input", "host", 1)
    assert before["headline"] in stalled["log"]
    assert before["suggestion_field"] == "loader_workers"
    assert before["outside"] is not None
    assert before["inside"] is not None


def test_the_suggestion_shows_its_improvement(home, profiles, stalled):
    before, after = profiles
    assert after["before_run_id"] == before["run_id"]
    # A step of 90 ms and more, 80 of them waiting: two loaders halve the wait at least.
    assert after["speedup"] > 1.3
    assert "times the throughput" in stalled["log"]
    compared = Path(after["report_path"]).parent.with_name(f"{after['run_id']}.compared")
    assert "loader_workers = 2" in (compared / "report.html").read_text()
    assert (compared / "report.pdf").read_bytes().startswith(b"%PDF")


def test_traces_and_reports_are_in_the_object_store_with_their_digests(home, profiles):
    from trainyard.files import sha256_of
    from trainyard.objectstore import ObjectStore

    run_id = profiles[0]["run_id"]
    objects = ObjectStore(settings_of(home))
    files = {row["name"]: row for row in ask(home, "profile_files", run_id=run_id)}
    wanted = {"report.html", "report.pdf", "timeline.html", "trace.json.gz", "analysis.json"}
    assert wanted | {"rank0.pt.trace.json.gz"} <= set(files)
    folder = Path(profiles[0]["report_path"]).parent
    assert files["report.pdf"]["sha256"] == sha256_of(folder / "report.pdf")
    for row in files.values():
        assert objects.exists(row["uri"].removeprefix(f"s3://{objects.bucket}/")), row
    assert json.loads((folder / "analysis.json").read_text())["verdict"]["bound"] == "input"


def test_mlflow_has_the_verdict_beside_the_run(home, profiles):
    from mlflow import MlflowClient

    (run,) = ask(home, "run", run_id=profiles[0]["run_id"])
    client = MlflowClient(tracking_uri=settings_of(home).mlflow_url)
    found = client.get_run(run["mlflow_run_id"])
    assert found.data.tags["trainyard.profile.bound"] == "input"
    assert found.data.metrics["profile/input_share"] > 0.5
    names = {item.path for item in client.list_artifacts(run["mlflow_run_id"], "profile")}
    assert {"profile/report.html", "profile/analysis.json"} <= names


def test_a_profiler_that_is_not_there_stops_the_chain_with_what_to_do(home):
    ran = run_dag(home, "profile_run", dataset="digits", profiler="ncu", ranks=[1])
    assert ran["state"] == "failed"
    assert ran["tasks"]["verify_environment[-1]"] == "failed"
    assert ran["tasks"]["plan[-1]"] == "upstream_failed"
    assert "profiler = 'torch', which is part of PyTorch" in ran["log"]
