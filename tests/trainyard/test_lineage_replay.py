"""What the tracking server missed is recorded later, from the database alone, and only once."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fixtures.samples import make_run, make_settings, make_study
from trainyard.errors import UnavailableError
from trainyard.lineage import record_study_start, replay
from trainyard.store import migrate, open_store

pytestmark = pytest.mark.slow  # needs the MLflow server


def test_replay_records_what_the_server_missed_and_nothing_twice(
    tracked_settings, suite, mlflow_client, tmp_path
):
    down = make_settings("http://127.0.0.1:9", tmp_path)
    study = make_study(suite=suite)
    ended = dataclasses.replace(study, status="completed", ended_at="2026-11-22T03:00:00Z")
    with open_store(tracked_settings.results_url) as store:
        migrate(store)
        store.save_study(ended)
        store.save_run(make_run(suite=suite))
        store.save_run(make_run("run-2", suite=suite, status="lost", result=None))
        store.save_run(make_run("run-3", suite=suite, status="running", result=None))
        with pytest.raises(UnavailableError, match=r"study study-1 is kept .*lineage replay"):
            replay(down, store)
        assert replay(tracked_settings, store, lambda row: tmp_path / row.run_id) == [
            "study-1",
            "run-1",
            "run-2",
        ]
        assert replay(tracked_settings, store) == []
        assert store.run("run-1").mlflow_run_id
        assert store.run("run-3").mlflow_run_id == ""
        assert store.study("study-1").mlflow_url.startswith("https://mlflow.example.org/#/")
    experiment = mlflow_client.get_experiment_by_name(f"trainyard/{suite}")
    assert len(mlflow_client.search_runs([experiment.experiment_id])) == 3


def test_replay_finishes_a_study_whose_end_was_missed(tracked_settings, suite, mlflow_client):
    study = make_study(suite=suite)
    start = record_study_start(tracked_settings, study)
    ended = dataclasses.replace(
        study, status="failed", ended_at="2026-11-22T03:00:00Z", mlflow_run_id=start.run_id
    )
    with open_store(tracked_settings.results_url) as store:
        migrate(store)
        store.save_study(ended)
        assert replay(tracked_settings, store) == ["study-1"]
        assert replay(tracked_settings, store) == []
    assert mlflow_client.get_run(start.run_id).info.status == "FAILED"
