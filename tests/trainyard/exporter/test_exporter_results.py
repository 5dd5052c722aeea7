"""What the exporter says of the results database, on both engines, and of one that is down."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fixtures.nights import measured
from tests.fixtures.samples import make_result, make_run, make_settings, make_spec, make_study
from trainer.contract import Phase, Status
from trainyard.exporter.catalogue import Sheet
from trainyard.exporter.reasons import OTHER, REASONS, classify
from trainyard.exporter.results import NIGHTLY, Results, seconds
from trainyard.exporter.sources import Exporter

SPEC = make_spec(name="strong-n2")
CONFIG = ("demo", "laptop", f"strong-n2-{SPEC.config_id[:6]}", "2", "images_per_second")


def results(url, tmp_path, now="2026-11-25T00:00:00+00:00", **changes):
    settings = dataclasses.replace(make_settings("http://127.0.0.1:1", tmp_path), **changes)
    settings = dataclasses.replace(settings, results_url=url)
    return Results(settings=settings, clock=lambda: seconds(now))


def read(source):
    sheet = Sheet()
    source.read(sheet)
    return sheet.samples


@pytest.fixture
def filled(filled_store, results_url, tmp_path):
    return read(results(results_url, tmp_path))


def test_how_runs_ended(filled):
    ended = filled["trainyard_runs_ended_total"]
    assert ended["laptop", "completed", ""] == 10
    assert ended["laptop", "lost", ""] == 1
    assert ended["laptop", "failed", OTHER] == 1
    assert ended["laptop", "failed", "oom"] == 0, "known to be none: an increase must be seen"
    assert len(ended) == 3 + len(REASONS), "the one that still runs has not ended"
    last = filled["trainyard_run_last_ended_timestamp_seconds"]
    assert last["laptop", "completed"] == seconds("2026-11-22T02:05:01+00:00")
    assert ("laptop", "lost") not in last


def test_the_last_figures_have_their_interval(filled):
    assert filled["trainyard_benchmark_median"][CONFIG] == 250.0
    assert filled["trainyard_benchmark_runs"][CONFIG] == 1
    assert CONFIG not in filled.get("trainyard_benchmark_low", {}), "one run has no interval"
    assert filled["trainyard_benchmark_timestamp_seconds"][CONFIG] == seconds(
        "2026-11-22T02:00:00+00:00"
    )
    states = {key[-1]: v for key, v in filled["trainyard_regression"].items() if key[:-1] == CONFIG}
    assert states == {"unknown": 1, "steady": 0, "suspected": 0, "confirmed": 0}


def fill_nights(store, rates, dag_id=NIGHTLY):
    for day, rate in enumerate(rates, start=10):
        night = f"night-{day}"
        at = f"2026-11-{day}T02:00:00+00:00"
        plan = [{"run_id": f"{night}.{repeat}"} for repeat in range(3)]
        store.save_study(
            make_study(night, created_at=at, ended_at=at, status="completed", plan=plan)
        )
        for repeat, factor in enumerate((0.998, 1.0, 1.002)):
            name = f"{night}.{repeat}"
            store.save_run(measured(name, rate * factor, SPEC, study_id=night, dag_id=dag_id))


QUIET = [100.0, 101.0, 99.0, 100.5, 99.5, 100.0]


def test_a_planted_regression_is_confirmed(store, results_url, tmp_path):
    fill_nights(store, [*QUIET, 80.0, 80.0])
    found = read(results(results_url, tmp_path))
    assert found["trainyard_regression"][*CONFIG, "confirmed"] == 1
    assert found["trainyard_regression"][*CONFIG, "steady"] == 0
    assert found["trainyard_benchmark_change_ratio"][CONFIG] == pytest.approx(-0.2, abs=0.01)
    assert found["trainyard_benchmark_low"][CONFIG] < 80 < found["trainyard_benchmark_high"][CONFIG]
    low, high = (found[f"trainyard_benchmark_reference_{end}"][CONFIG] for end in ("low", "high"))
    assert 80 < low < 100 < high


def test_nights_older_than_the_window_do_not_count(store, results_url, tmp_path):
    fill_nights(store, QUIET)
    later = read(results(results_url, tmp_path, now="2027-03-01T00:00:00+00:00"))
    assert "trainyard_regression" not in later


def test_the_last_nightly(store, results_url, tmp_path):
    fill_nights(store, [100.0])
    found = read(results(results_url, tmp_path))
    at = seconds("2026-11-10T02:00:00+00:00")
    assert found["trainyard_nightly_last_ended_timestamp_seconds"] == {("laptop",): at}
    assert found["trainyard_nightly_last_success"] == {("laptop",): 1}
    assert found["trainyard_nightly_last_runs"]["laptop", "planned"] == 3
    assert found["trainyard_nightly_last_info"] == {("laptop", "night-10", "c0ffee0", "2.15.0"): 1}
    assert found["trainyard_nightly_expected"] == {(): 1}


def test_a_night_that_lost_a_run_is_no_success(store, results_url, tmp_path):
    fill_nights(store, [100.0])
    result = make_result("night-10.0", SPEC, status=Status.FAILED, phase=Phase.TRAIN)
    broken = make_run("night-10.0", spec=SPEC, study_id="night-10", status="failed", result=result)
    store.engine.fetch("DELETE FROM runs WHERE run_id = 'night-10.0'", {})
    store.save_run(dataclasses.replace(broken, dag_id=NIGHTLY))
    found = read(results(results_url, tmp_path, nightly_schedule=""))
    assert found["trainyard_nightly_last_success"] == {("laptop",): 0}
    assert found["trainyard_nightly_last_runs"]["laptop", "completed"] == 2
    assert found["trainyard_nightly_expected"] == {(): 0}


def test_other_studies_are_no_nights(filled):
    assert "trainyard_nightly_last_ended_timestamp_seconds" not in filled


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/results.db", "postgresql://u:p@127.0.0.1:9/results"]
)
def test_a_database_that_is_down_shows_no_numbers(url, tmp_path):
    exporter = Exporter([results(url, tmp_path)])
    exporter.watched[0].look()
    shown = {s.name: s.value for family in exporter.collect() for s in family.samples}
    assert shown == {"trainyard_source_up": 0.0, "trainyard_source_failures_total": 1.0}


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ("exit code 1: out of memory: [enforce fail]. Choose a smaller per_rank_batch", 1, "oom"),
        ("job 12 on n1: used too much memory", 1, "oom"),
        ("it was stopped after 3600 s, the site's limit", None, "timeout"),
        ("job 5: reached its time limit", None, "timeout"),
        ("exit code 1: loss is nan between steps 10 and 40: training diverged", 1, "diverged"),
        ("sanity check failed: ranks_agree (2 distinct hashes)", 0, "sanity"),
        ("exit code 1: rank 1 ended without a word (killed?); rank 0: x", 1, "rank_lost"),
        ("it was never started; the log of its task says why", None, "not_started"),
        ("exit code 1: stopped by SIGTERM: cancelled, out of time, or another rank died", 1,
         "stopped"),
        ("exit code 137", 137, "killed"),
        ("exit code 2: global_batch = 7: must be 8", 2, OTHER),
        ("", None, OTHER),
    ],
)  # fmt: skip
def test_reasons(reason, code, expected):
    assert classify(reason, code) == expected
    assert expected in REASONS
