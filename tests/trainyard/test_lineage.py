"""Lineage against a real tracking server, read back with MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.fixtures.samples import DIGEST, make_result, make_run, make_study
from trainer.contract import Metric, Phase, RunResult, Status, Window, WindowKind, loads
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.lineage import record_run, record_study_end, record_study_start, replay
from trainyard.lineage.client import TrackingClient
from trainyard.settings import Settings
from trainyard.store import migrate, open_store

pytestmark = pytest.mark.slow  # one MLflow server for all of them takes tens of seconds to start


@pytest.fixture(scope="module")
def mlflow_client(mlflow_server):
    """MLflow's own client, to see what a user of MLflow sees."""
    from mlflow import MlflowClient

    return MlflowClient(mlflow_server.url)


@pytest.fixture
def settings(mlflow_server, tmp_path):
    return make_settings(mlflow_server.url, tmp_path)


def make_settings(url, tmp_path):
    return Settings(
        results_url=f"sqlite:///{tmp_path / 'results.db'}",
        s3_endpoint="127.0.0.1:1",
        s3_access_key="key",
        s3_secret_key="secret",
        mlflow_url=url,
        mlflow_public_url="https://mlflow.example.org",
        airflow_public_url="https://airflow.example.org/",
        reports_dir=str(tmp_path),
        sites_file=str(tmp_path / "sites.toml"),
        downloads_dir=str(tmp_path),
    )


@pytest.fixture
def suite(request):
    """A suite, and so an experiment, of the test's own."""
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    (folder / "epochs.csv").write_text("epoch,loss\n0,1.5\n")
    (folder / "stdout.log").write_text("x" * 70_000 + "the end")
    (folder / "stderr.log").write_text("")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "big.pt").write_text("not for the tracking server")
    return folder


def runs_in(client, suite):
    experiment = client.get_experiment_by_name(f"trainyard/{suite}")
    return client.search_runs([experiment.experiment_id])


def artifact(client, run_id, name, tmp_path):
    with pathlib.Path(client.download_artifacts(run_id, name, str(tmp_path))).open("rb") as stream:
        return stream.read()


def test_a_run_is_recorded_completely_and_nested_under_its_study(
    settings, suite, run_dir, mlflow_client, tmp_path
):
    study = make_study(suite=suite)
    parent = record_study_start(settings, study, dag_id="scaling_study")
    row = make_run(suite=suite, artifacts_uri="s3://trainyard/runs/run-1/")
    ref = record_run(settings, row, run_dir)

    run = mlflow_client.get_run(ref.run_id)
    assert ref.url == (
        f"https://mlflow.example.org/#/experiments/{ref.experiment_id}/runs/{ref.run_id}"
    )
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "strong-n2"
    assert run.info.start_time == 1795312740000
    assert run.info.end_time - run.info.start_time == 361_000
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent.run_id
    assert tags["mlflow.source.git.commit"] == "c0ffee0"
    assert tags["trainyard.dataset_digest"] == DIGEST
    assert tags["trainyard.flags"] == "unstable, foreign_load"
    assert tags["trainyard.comparable"] == "false"
    assert tags["trainyard.sane"] == "true"
    assert tags["unit.images_per_second"] == "image/s"
    assert tags["unit.peak_memory_bytes"] == "B"
    assert tags["trainyard.artifacts_uri"] == "s3://trainyard/runs/run-1/"
    assert tags["trainyard.airflow_url"] == (
        "https://airflow.example.org/dags/scaling_study/runs/manual__2026-11-22/tasks/train/mapped/3"
    )
    assert run.data.params["ranks"] == "2"
    assert run.data.params["dataset_digest"] == DIGEST
    assert run.data.params["controls"] == '["synthetic_input", "no_sync"]'
    assert set(run.data.params) == {f.name for f in dataclasses.fields(row.spec)}
    assert run.data.metrics["images_per_second"] == 812.5
    assert run.data.metrics["step_time_s"] == 0.1 + 0.2
    assert math.isnan(run.data.metrics["train_loss"])
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", DIGEST[:36])
    assert json.loads(dataset.dataset.source) == {"uri": f"s3://trainyard/datasets/sha256/{DIGEST}"}

    steps = mlflow_client.get_metric_history(ref.run_id, "window/no_sync/step_time_s")
    assert [(point.step, point.value) for point in steps] == [(0, 0.375 / 20)]
    losses = mlflow_client.get_metric_history(ref.run_id, "epoch/train_loss")
    assert [point.step for point in losses] == [0, 1]
    assert losses[0].value == 2.25
    names = {item.path for item in mlflow_client.list_artifacts(ref.run_id)}
    assert names == {"spec.json", "result.json", "epochs.csv", "stdout.tail.log"}
    tail = artifact(mlflow_client, ref.run_id, "stdout.tail.log", tmp_path)
    assert len(tail) == 64 * 1024
    assert tail.endswith(b"the end")


def test_recording_again_changes_nothing(settings, suite, run_dir, mlflow_client):
    row = make_run(suite=suite, study_id="")
    first = record_run(settings, row, run_dir)
    before = repr(mlflow_client.get_run(first.run_id).to_dictionary())  # NaN is no equal of NaN
    history = mlflow_client.get_metric_history(first.run_id, "window/train/step_time_s")
    assert record_run(settings, row, run_dir) == first
    assert repr(mlflow_client.get_run(first.run_id).to_dictionary()) == before
    assert len(runs_in(mlflow_client, suite)) == 1
    again = mlflow_client.get_metric_history(first.run_id, "window/train/step_time_s")
    assert len(again) == len(history) == 2


def test_a_crash_between_making_and_filling_a_run_is_mended_by_the_retry(
    settings, suite, run_dir, mlflow_client, monkeypatch
):
    row = make_run(suite=suite, study_id="")
    with monkeypatch.context() as patch:
        patch.setattr(TrackingClient, "log", lambda *args, **options: sys.exit("killed"))
        with pytest.raises(SystemExit):
            record_run(settings, row, run_dir)
    (half,) = runs_in(mlflow_client, suite)
    assert half.info.status == "RUNNING"
    ref = record_run(settings, row, run_dir)
    (whole,) = runs_in(mlflow_client, suite)
    assert ref.run_id == half.info.run_id == whole.info.run_id
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics["images_per_second"] == 812.5


def test_tasks_that_record_the_same_run_at_once_leave_one(settings, suite, mlflow_client):
    row = make_run(suite=suite)
    refs, errors = [], []

    def work():
        try:
            refs.append(record_run(settings, row, None))
        except Exception as error:  # noqa: BLE001  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    final = record_run(settings, row, None)
    kinds = sorted(run.data.tags["trainyard.kind"] for run in runs_in(mlflow_client, suite))
    assert kinds == ["run", "study"]
    child = mlflow_client.get_run(final.run_id)
    parent = mlflow_client.get_run(child.data.tags["mlflow.parentRunId"])
    assert parent.info.lifecycle_stage == "active"


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [
        pytest.param(
            "failed", make_result(status=Status.FAILED, phase=Phase.TRAIN), "FAILED", id="failed"
        ),
        pytest.param("lost", None, "FAILED", id="lost"),
        pytest.param("cancelled", None, "KILLED", id="cancelled"),
    ],
)
def test_a_run_that_did_not_complete_is_recorded_with_its_reason(
    settings, suite, mlflow_client, status, result, expected
):
    row = make_run(
        suite=suite, study_id="", status=status, result=result, reason="worker died", task_id=""
    )
    ref = record_run(settings, row, None)
    run = mlflow_client.get_run(ref.run_id)
    assert run.info.status == expected
    assert run.data.tags["trainyard.reason"] == "worker died"
    assert "worker died" in run.data.tags["mlflow.note.content"]
    assert "trainyard.airflow_url" not in run.data.tags
    assert run.data.tags["trainyard.sane"] == "false"


def test_thousands_of_windows_and_unusual_names_fit_the_servers_limits(
    settings, suite, mlflow_client
):
    windows = tuple(
        Window(kind=WindowKind.TRAIN, index=i, steps=20, images=64, seconds_by_rank=(i + 1.0,))
        for i in range(1500)
    )
    metrics = tuple(Metric(name=f"m{i}", value=float(i), unit="1") for i in range(120))
    odd = Metric(name="share (%)", value=3.0, unit="%")
    result = make_result(windows=windows, metrics=(*metrics, odd))
    ref = record_run(settings, make_run(suite=suite, study_id="", result=result), None)
    run = mlflow_client.get_run(ref.run_id)
    assert run.data.metrics["m119"] == 119.0
    assert run.data.metrics["share ___"] == 3.0
    assert run.data.tags["unit.m119"] == "1"
    series = mlflow_client.get_metric_history(ref.run_id, "window/train/step_time_s")
    assert [point.value for point in series] == [(i + 1) / 20 for i in range(1500)]


def test_without_a_run_folder_the_records_themselves_are_the_artifacts(
    settings, suite, mlflow_client, tmp_path
):
    row = make_run(suite=suite, study_id="")
    ref = record_run(settings, row, tmp_path / "gone")
    text = artifact(mlflow_client, ref.run_id, "result.json", tmp_path)
    assert repr(loads(RunResult, text)) == repr(row.result)


def test_a_study_ends_with_summary_and_report(settings, suite, mlflow_client, tmp_path):
    study = make_study(suite=suite)
    start = record_study_start(settings, study)
    assert mlflow_client.get_run(start.run_id).info.status == "RUNNING"
    report = tmp_path / "report.html"
    report.write_text("<h1>Report</h1>")
    ended = dataclasses.replace(
        study, status="completed", ended_at="2026-11-22T03:00:00+00:00", report_uri="s3://b/r.html"
    )
    summary = [Metric(name="efficiency_strong_n2", value=0.91, unit="1")]
    for _ in range(2):
        end = record_study_end(
            settings, ended, dag_id="scaling_study", summary=summary, files=[report]
        )
        assert end == start
    run = mlflow_client.get_run(end.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"efficiency_strong_n2": 0.91}
    assert run.data.tags["unit.efficiency_strong_n2"] == "1"
    assert run.data.tags["trainyard.report_url"] == "s3://b/r.html"
    assert run.data.params["preset"] == "demo"
    assert (
        artifact(mlflow_client, end.run_id, "report/report.html", tmp_path) == report.read_bytes()
    )


def test_an_experiment_in_the_trash_is_restored(settings, suite, mlflow_client):
    ref = record_run(settings, make_run(suite=suite, study_id=""), None)
    mlflow_client.delete_experiment(ref.experiment_id)
    again = record_run(settings, make_run("run-2", suite=suite, study_id=""), None)
    assert again.experiment_id == ref.experiment_id


def test_replay_records_what_the_server_missed_and_nothing_twice(
    settings, suite, run_dir, mlflow_client, tmp_path
):
    down = make_settings(f"http://127.0.0.1:{closed_port()}", tmp_path)
    study = make_study(suite=suite)
    ended = dataclasses.replace(study, status="completed", ended_at="2026-11-22T03:00:00Z")
    with open_store(settings.results_url) as store:
        migrate(store)
        store.save_study(ended)
        store.save_run(make_run(suite=suite))
        store.save_run(make_run("run-2", suite=suite, status="lost", result=None))
        store.save_run(make_run("run-3", suite=suite, status="running", result=None))
        with pytest.raises(UnavailableError, match=r"study study-1 is kept .*lineage replay"):
            replay(down, store)
        assert replay(settings, store, lambda row: run_dir) == ["study-1", "run-1", "run-2"]
        assert replay(settings, store) == []
        assert store.run("run-1").mlflow_run_id
        assert store.run("run-3").mlflow_run_id == ""
        assert store.study("study-1").mlflow_url.startswith("https://mlflow.example.org/#/")
    assert len(runs_in(mlflow_client, suite)) == 3


def test_replay_finishes_a_study_whose_end_was_missed(settings, suite, mlflow_client):
    study = make_study(suite=suite)
    start = record_study_start(settings, study)
    ended = dataclasses.replace(
        study, status="failed", ended_at="2026-11-22T03:00:00Z", mlflow_run_id=start.run_id
    )
    with open_store(settings.results_url) as store:
        migrate(store)
        store.save_study(ended)
        assert replay(settings, store) == ["study-1"]
        assert replay(settings, store) == []
    assert mlflow_client.get_run(start.run_id).info.status == "FAILED"


# outages


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_down_is_told_quickly_and_with_the_way_on(tmp_path):
    down = make_settings(f"http://user:hush@127.0.0.1:{closed_port()}", tmp_path)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"run run-1 is kept .*lineage replay") as caught:
        record_run(down, make_run(), None)
    assert time.monotonic() - began < 10
    assert "hush" not in str(caught.value)


def test_a_server_that_hangs_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = TrackingClient(f"http://127.0.0.1:{listener.getsockname()[1]}", read_s=0.2)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            client.experiment_id("any")
        assert time.monotonic() - began < 10
        client.close()


def test_an_address_that_is_no_tracking_server_is_told(mlflow_server):
    with pytest.raises(ConfigurationError, match="must be the http or https address"):
        TrackingClient("mlflow:5000")
    client = TrackingClient(f"{mlflow_server.url}/elsewhere")
    with pytest.raises((ConfigurationError, UnavailableError), match="tracking server"):
        client.experiment_id("any")
    client.close()


def test_recording_needs_neither_the_mlflow_package_nor_its_environment():
    """Importing it takes seconds of CPU in every task, beside a run under measurement."""
    code = (
        "import os, sys; before = dict(os.environ); import trainyard.lineage.client as c; "
        "c.TrackingClient('http://localhost:1'); "
        "assert not {'mlflow', 'pandas', 'numpy', 'requests'} & set(sys.modules), sys.modules; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
