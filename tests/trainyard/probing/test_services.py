"""Timing the services behind a site: real ones, and ones that do not answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fixtures.settings import make_settings
from trainyard.errors import UnavailableError
from trainyard.probing import services
from trainyard.probing.services import (
    EXPERIMENT,
    measure_services,
    median_of,
    object_store,
    results_database,
    tracking,
)
from trainyard.s3client import make, pool
from trainyard.store import open_store
from trainyard.store.probes import recent_probes
from trainyard.store.throughput import round_trip


def test_rows_go_through_the_results_database_and_none_stays(store, results_url, tmp_path):
    seen = []
    asked = store.query

    def query(name, /, **params):
        found = asked(name, **params)
        seen.append((params["site"], len(found)))
        return found

    store.query = query
    assert round_trip(store, 50) > 0
    ((site, count),) = seen
    assert count == 50, "read back before they went"
    with open_store(results_url) as other:
        assert recent_probes(other, site) == []
    (made,) = results_database(make_settings(tmp_path / "more", results_url=results_url))
    assert (made.name, made.unit, made.repeats) == ("results.round_trip", "1/s", 7)
    assert made.value > 100


def test_rows_that_do_not_come_back_are_no_number(store):
    store.query = lambda name, /, **params: []
    with pytest.raises(UnavailableError, match="50 rows were inserted, 0 came back"):
        round_trip(store, 50)


@pytest.mark.slow  # MLflow takes seconds to start
def test_the_tracking_server_takes_metrics_and_the_run_goes(tracked_settings, mlflow_client):
    from mlflow.entities import ViewType

    (made,) = tracking(tracked_settings)
    assert (made.name, made.unit, made.repeats) == ("tracking.log_batch", "1/s", 7)
    assert made.value > 10
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id
    assert list(mlflow_client.search_runs([experiment])) == []
    (gone,) = mlflow_client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    history = mlflow_client.get_metric_history(gone.info.run_id, "probe_3")
    assert len(history) == 8 * 200 / 10, "every metric of every call arrived"
    tracking(tracked_settings)
    assert mlflow_client.get_experiment_by_name(EXPERIMENT).experiment_id == experiment


def test_the_object_store_gives_back_what_it_took_and_keeps_nothing(s3_server, tmp_path):
    settings = make_settings(tmp_path, **s3_server.settings())
    make(settings, pool(10.0)).make_bucket(settings.s3_bucket)
    made = object_store(settings)
    assert [(one.name, one.unit) for one in made] == [
        ("objectstore.put", "B/s"),
        ("objectstore.get", "B/s"),
    ]
    assert all(one.value > 1e6 for one in made)
    assert s3_server.objects(settings.s3_bucket) == {}


def test_services_that_do_not_answer_are_problems_and_cost_no_other(tmp_path, monkeypatch):
    settings = replace(make_settings(tmp_path), results_url=f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setitem(services.SERVICES, "tracking", lambda _: [median_of("t", [1.0], "1/s")])
    made, problems = measure_services(settings)
    assert [one.name for one in made] == ["t"]
    store, results = problems
    assert store.what.startswith("object store not measured: ")
    assert results.what.startswith("results database not measured: ")
    assert "none.db" in results.what
    assert {problem.probe for problem in problems} == {"services"}
    assert all(problem.fix for problem in problems)


def test_a_tracking_server_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(UnavailableError, match="does not answer"):
        tracking(make_settings(tmp_path))


@pytest.mark.parametrize(
    ("values", "valid"),
    [([5.0], True), ([100, 101, 99, 100, 102], True), ([100, 130, 70, 100, 125], False)],
)
def test_repeats_that_disagree_do_not_count(values, valid):
    made = median_of("x", values, "1/s")
    assert made.valid is valid
    assert ("unstable" in made.why) is not valid
    both = median_of("x", values, "1/s", "a queue")
    assert both.why.startswith("a queue")
