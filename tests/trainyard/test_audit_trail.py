"""Who had a DAG run: what is kept of it, and that keeping it never hurts the scheduler."""

from __future__ import annotations

import json
import logging
import time
from types import SimpleNamespace

import pytest

from tests.fixtures.settings import make_settings
from trainyard.audit import triggered_by
from trainyard.hooks import audit
from trainyard.store import AuditRow, migrate, open_store

STARTED = "2026-11-22T02:00:00+00:00"


def dag_run(**changes):
    """A DAG run as the scheduler hands it to listeners."""
    values = {
        "dag_id": "train", "run_id": "manual__1", "run_type": SimpleNamespace(value="manual"),
        "triggered_by": SimpleNamespace(value="UI"), "triggering_user_name": "ada",
        "conf": {"dataset": "digits", "password": "hush", "nested": {"api_key": "hush"}},
        "queued_at": STARTED, "run_after": STARTED, "start_date": STARTED, "end_date": None,
        "state": SimpleNamespace(value="running"), "clear_number": 0,
        "dag": SimpleNamespace(tags={"trainyard"}), **changes,
    }  # fmt: skip
    return SimpleNamespace(**values)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    made = make_settings(tmp_path)
    with open_store(made.results_url) as store:
        migrate(store)
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    return made


def rows(settings):
    with open_store(settings.results_url) as store:
        return store.query("audit_trail", since="2000")


def test_start_and_end_are_one_row(settings):
    audit.on_dag_run_running(dag_run(), "")
    (row,) = rows(settings)
    assert (row["user_name"], row["kind"], row["triggered_by"]) == ("ada", "manual", "ui")
    assert row["state"] == "running"
    ended = dag_run(state=SimpleNamespace(value="failed"), end_date=STARTED, clear_number=2)
    audit.on_dag_run_failed(ended, "")
    (row,) = rows(settings)
    assert (row["state"], row["clears"]) == ("failed", 2)
    assert row["ended_at"].startswith("2026-11-22T02:00:00")


def test_secrets_of_a_form_are_masked_by_their_names(settings):
    audit.on_dag_run_running(dag_run(), "")
    (row,) = rows(settings)
    assert "hush" not in row["conf"]
    assert json.loads(row["conf"])["dataset"] == "digits"


def test_a_run_that_nobody_triggered_has_no_user(settings):
    audit.on_dag_run_running(
        dag_run(
            run_type=SimpleNamespace(value="scheduled"),
            triggered_by=SimpleNamespace(value="timetable"),
            triggering_user_name=None,
            queued_at=None,
            conf=None,
        ),
        "",
    )
    (row,) = rows(settings)
    assert (row["user_name"], row["kind"], row["conf"]) == ("", "scheduled", "{}")
    assert row["queued_at"].startswith("2026-11-22"), "run_after stands in"


def test_other_peoples_dags_are_not_kept(settings):
    audit.on_dag_run_running(dag_run(dag=SimpleNamespace(tags={"billing"})), "")
    assert rows(settings) == []


def test_an_end_makes_up_for_a_start_that_could_not_be_stored(settings, tmp_path, caplog):
    path = tmp_path / "settings.toml"
    good = path.read_text()
    path.write_text(good.replace(settings.results_url, "postgresql://me:hush@127.0.0.1:1/d"))
    with caplog.at_level(logging.INFO):
        began = time.monotonic()
        audit.on_dag_run_running(dag_run(), "")
        assert time.monotonic() - began < 10
    assert "train is running; manual by ada through ui" in caplog.text
    assert "Kept in this log only" in caplog.text
    assert "hush" not in caplog.text
    path.write_text(good)
    audit.on_dag_run_success(dag_run(state=SimpleNamespace(value="success")), "")
    (row,) = rows(settings)
    assert (row["user_name"], row["state"]) == ("ada", "success")


def test_whatever_is_wrong_the_scheduler_goes_on(settings, caplog):
    audit.on_dag_run_running(SimpleNamespace(), "")
    assert "The audit of a DAG run could not be kept" in caplog.text


@pytest.mark.parametrize(
    ("user", "way", "kind", "words"),
    [
        ("ada", "ui", "manual", "ada, in the web UI"),
        ("", "timetable", "scheduled", "Airflow, on schedule"),
        ("", "", "backfill", "Airflow, backfill"),
        ("ada", "carrier_pigeon", "manual", "ada, carrier_pigeon"),
    ],
)
def test_who_had_it_in_words(settings, user, way, kind, words):
    row = AuditRow(
        dag_id="train", dag_run_id="r", kind=kind, triggered_by=way, user_name=user,
        queued_at=STARTED, state="running",
    )  # fmt: skip
    with open_store(settings.results_url) as store:
        store.save_audit(row)
        assert triggered_by(store, "train", "r") == words
        assert triggered_by(store, "train", "other") == ""
