"""Lineage against a real tracking server, read back with MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
import threading

import pytest

from tests.fixtures.samples import (
    DIGEST,
    make_result,
    make_run,
    make_spec,
    make_study,
)
from trainer.contract import Metric, Phase, RunResult, Status, Window, WindowKind, loads
from trainyard.lineage import record_run, record_study_end, record_study_start
from trainyard.lineage.client import TrackingClient

pytestmark = pytest.mark.slow  # one MLflow server for all of them takes tens of seconds to start


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
    tracked_settings, suite, run_dir, mlflow_client, tmp_path
):
    study = make_study(suite=suite)
    parent = record_study_start(tracked_settings, study, dag_id="scaling_study")
    ref = record_run(tracked_settings, make_run(suite=suite), run_dir)

    run = mlflow_client.get_run(ref.run_id)
    assert ref.url == (
        f"https://mlflow.example.org/#/experiments/{ref.experiment_id}/runs/{ref.run_id}"
    )
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "strong-n2"
    assert run.info.start_time == 1795312740000
    assert run.info.end_time - run.info.start_time == 361_000
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert_series_and_artifacts(mlflow_client, ref.run_id, tmp_path)


def test_a_run_carries_its_spec_verdicts_units_data_and_ways_back(
    tracked_settings, suite, mlflow_client
):
    row = make_run(suite=suite, study_id="", artifacts_uri="s3://trainyard/runs/run-1/")
    run = mlflow_client.get_run(record_run(tracked_settings, row, None).run_id)
    tags = run.data.tags
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


def assert_series_and_artifacts(mlflow_client, run_id, tmp_path):
    steps = mlflow_client.get_metric_history(run_id, "window/no_sync/step_time_s")
    assert [(point.step, point.value) for point in steps] == [(0, 0.375 / 20)]
    losses = mlflow_client.get_metric_history(run_id, "epoch/train_loss")
    assert [point.step for point in losses] == [0, 1]
    assert losses[0].value == 2.25
    names = {item.path for item in mlflow_client.list_artifacts(run_id)}
    assert names == {"spec.json", "result.json", "epochs.csv", "stdout.tail.log"}
    tail = artifact(mlflow_client, run_id, "stdout.tail.log", tmp_path)
    assert len(tail) == 64 * 1024
    assert tail.endswith(b"the end")


def test_recording_again_changes_nothing(tracked_settings, suite, run_dir, mlflow_client):
    row = make_run(suite=suite, study_id="")
    first = record_run(tracked_settings, row, run_dir)
    before = repr(mlflow_client.get_run(first.run_id).to_dictionary())  # NaN is no equal of NaN
    history = mlflow_client.get_metric_history(first.run_id, "window/train/step_time_s")
    assert record_run(tracked_settings, row, run_dir) == first
    assert repr(mlflow_client.get_run(first.run_id).to_dictionary()) == before
    assert len(runs_in(mlflow_client, suite)) == 1
    again = mlflow_client.get_metric_history(first.run_id, "window/train/step_time_s")
    assert len(again) == len(history) == 2


def test_a_crash_between_making_and_filling_a_run_is_mended_by_the_retry(
    tracked_settings, suite, run_dir, mlflow_client, monkeypatch
):
    row = make_run(suite=suite, study_id="")
    with monkeypatch.context() as patch:
        patch.setattr(TrackingClient, "log", lambda *args, **options: sys.exit("killed"))
        with pytest.raises(SystemExit):
            record_run(tracked_settings, row, run_dir)
    (half,) = runs_in(mlflow_client, suite)
    assert half.info.status == "RUNNING"
    ref = record_run(tracked_settings, row, run_dir)
    (whole,) = runs_in(mlflow_client, suite)
    assert ref.run_id == half.info.run_id == whole.info.run_id
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics["images_per_second"] == 812.5


def test_tasks_that_record_the_same_run_at_once_leave_one(tracked_settings, suite, mlflow_client):
    row = make_run(suite=suite)
    refs, errors = [], []

    def work():
        try:
            refs.append(record_run(tracked_settings, row, None))
        except Exception as error:  # noqa: BLE001  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    final = record_run(tracked_settings, row, None)
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
    tracked_settings, suite, mlflow_client, tmp_path, status, result, expected
):
    row = make_run(
        suite=suite, study_id="", status=status, result=result, reason="worker died", task_id="",
        log_tail="Killed",
    )  # fmt: skip
    ref = record_run(tracked_settings, row, None)
    run = mlflow_client.get_run(ref.run_id)
    assert run.info.status == expected
    assert run.data.tags["trainyard.reason"] == "worker died"
    assert "worker died" in run.data.tags["mlflow.note.content"]
    assert "trainyard.airflow_url" not in run.data.tags
    assert run.data.tags["trainyard.sane"] == "false"
    assert artifact(mlflow_client, ref.run_id, "log.tail.log", tmp_path) == b"Killed"


def test_thousands_of_windows_and_unusual_names_fit_the_servers_limits(
    tracked_settings, suite, mlflow_client
):
    windows = tuple(
        Window(kind=WindowKind.TRAIN, index=i, steps=20, images=64, seconds_by_rank=(i + 1.0,))
        for i in range(1500)
    )
    metrics = tuple(Metric(name=f"m{i}", value=float(i), unit="1") for i in range(120))
    odd = Metric(name="share (%)", value=3.0, unit="%")
    result = make_result(windows=windows, metrics=(*metrics, odd))
    ref = record_run(tracked_settings, make_run(suite=suite, study_id="", result=result), None)
    run = mlflow_client.get_run(ref.run_id)
    assert run.data.metrics["m119"] == 119.0
    assert run.data.metrics["share ___"] == 3.0
    assert run.data.tags["unit.m119"] == "1"
    series = mlflow_client.get_metric_history(ref.run_id, "window/train/step_time_s")
    assert [point.value for point in series] == [(i + 1) / 20 for i in range(1500)]


def test_synthetic_data_is_recorded_without_an_input(tracked_settings, suite, mlflow_client):
    spec = make_spec(dataset="synthetic", dataset_digest="")
    ref = record_run(tracked_settings, make_run(suite=suite, study_id="", spec=spec), None)
    run = mlflow_client.get_run(ref.run_id)
    assert run.inputs.dataset_inputs == []
    assert run.data.params["dataset"] == "synthetic"
    assert run.data.params["loss_reference"] == "null"
    study = make_study(suite=suite, dataset="synthetic", dataset_digest="")
    assert record_study_start(tracked_settings, study).experiment_id == ref.experiment_id


def test_without_a_run_folder_the_records_themselves_are_the_artifacts(
    tracked_settings, suite, mlflow_client, tmp_path
):
    row = make_run(suite=suite, study_id="")
    ref = record_run(tracked_settings, row, tmp_path / "gone")
    text = artifact(mlflow_client, ref.run_id, "result.json", tmp_path)
    assert repr(loads(RunResult, text)) == repr(row.result)


def test_a_study_ends_with_summary_and_report(tracked_settings, suite, mlflow_client, tmp_path):
    study = make_study(suite=suite)
    start = record_study_start(tracked_settings, study)
    assert mlflow_client.get_run(start.run_id).info.status == "RUNNING"
    report = tmp_path / "report.html"
    report.write_text("<h1>Report</h1>")
    ended = dataclasses.replace(
        study, status="completed", ended_at="2026-11-22T03:00:00+00:00", report_uri="s3://b/r.html"
    )
    summary = [Metric(name="efficiency_strong_n2", value=0.91, unit="1")]
    for _ in range(2):
        end = record_study_end(
            tracked_settings, ended, dag_id="scaling_study", summary=summary, files=[report]
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


def test_an_experiment_in_the_trash_is_restored(tracked_settings, suite, mlflow_client):
    ref = record_run(tracked_settings, make_run(suite=suite, study_id=""), None)
    mlflow_client.delete_experiment(ref.experiment_id)
    again = record_run(tracked_settings, make_run("run-2", suite=suite, study_id=""), None)
    assert again.experiment_id == ref.experiment_id
