"""Saving: everything comes back, twice is once, and a row never yields to one that knows less."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.samples import (
    DIGEST,
    ODD_TEXT,
    make_provenance,
    make_result,
    make_run,
    make_spec,
    make_study,
)
from trainer.contract import Epoch, Metric, Status, Window, WindowKind
from trainyard.errors import ConfigurationError
from trainyard.store import EnvironmentCheck


def same(left, right):
    """Equality of records in which NaN equals NaN, and the two zeros are equal as in IEEE 754.

    SQLite stores a REAL that is a whole number as an integer, which has one zero.
    """
    one, other = (re.sub(r"-0\.0\b(?![0-9e])", "0.0", repr(side)) for side in (left, right))
    return one == other


def failed(run_id="run-1", **changes):
    changes = {"status": "failed", "phase": "train", "result": None, "exit_code": 1, **changes}
    return make_run(run_id, **changes)


def test_a_complete_run_comes_back_exactly(store):
    row = make_run(reason=ODD_TEXT, log_tail="line\n" * 3 + ODD_TEXT)
    store.save_study(make_study())
    assert store.save_run(row)
    assert same(store.run("run-1"), row)


def test_a_run_without_result_comes_back_exactly(store):
    row = failed(study_id="", exit_code=None, status="lost", ended_at=None)
    assert store.save_run(row)
    assert same(store.run("run-1"), row)
    assert store.run("other") is None


def test_saving_twice_is_saving_once(store):
    store.save_study(make_study())
    for _ in range(3):
        assert store.save_run(make_run())
    assert same(store.run("run-1"), make_run())
    assert len(store.query("study_windows", study_id="study-1")) == 4


def test_a_better_row_replaces_all_children(store):
    store.save_study(make_study())
    store.save_run(make_run())
    spec = make_spec()
    fewer = make_result(spec=spec, metrics=(), windows=(), flags=(), flag_details=(), sanity=())
    store.save_run(make_run(spec=spec, result=fewer, ended_at="2026-11-23T00:00:00+00:00"))
    assert same(store.run("run-1").result, fewer)


def test_the_end_is_the_results_own_where_airflow_knows_none(store):
    store.save_run(make_run(study_id="", ended_at=None))
    assert store.run("run-1").ended_at == "2026-11-22T02:05:00.500000+00:00"


def test_a_big_spec_and_many_windows_survive(store):
    windows = tuple(
        Window(kind=WindowKind.TRAIN, index=i, steps=20, images=10**9, seconds_by_rank=(0.5,) * 64)
        for i in range(500)
    )
    spec = make_spec(name="n" * 100, ranks=64, nodes=8, global_batch=64 * 32, seed=2**62)
    row = make_run(spec=spec, study_id="", result=make_result(spec=spec, windows=windows))
    store.save_run(row)
    assert same(store.run("run-1"), row)
    assert store.query("run", run_id="run-1")[0]["windows"] == 500


def test_what_no_database_holds_is_replaced_not_refused(store):
    store.save_run(failed(study_id="", log_tail="a\x00b \udcff c", reason="\x00"))
    back = store.run("run-1")
    assert (back.log_tail, back.reason) == ("a\ufffdb ? c", "\ufffd")


floats = st.floats(allow_nan=True, allow_infinity=True, width=64)
results = st.builds(
    lambda values, seconds, losses: {
        "metrics": tuple(
            Metric(name=f"m{i}", value=value, unit="1") for i, value in enumerate(values)
        ),
        "windows": tuple(
            Window(kind=kind, index=i, steps=1, images=1, seconds_by_rank=tuple(one))
            for i, (kind, one) in enumerate(seconds)
        ),
        "epochs": tuple(
            Epoch(
                index=i,
                steps=1,
                images=1,
                seconds=1.0,
                train_loss=loss,
                train_accuracy=0.0,
                test_accuracy=accuracy,
            )
            for i, (loss, accuracy) in enumerate(losses)
        ),
    },
    st.lists(floats, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(WindowKind), st.lists(floats, min_size=1, max_size=3)), max_size=4
    ),
    st.lists(st.tuples(floats, st.none() | floats), max_size=3),
)


@settings(
    max_examples=30,
    deadline=None,
    # One store for all examples is on purpose: each example overwrites the run of the one before.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(parts=results, words=st.text(max_size=20))
def test_any_numbers_and_any_text_come_back(store, parts, words):
    row = make_run(
        study_id="", result=make_result(reason="", **parts), reason=words, log_tail=words
    )
    assert store.save_run(row)
    back = store.run("run-1")
    assert same(back.result, row.result)
    assert back.reason == words.replace("\x00", "\ufffd")


# contradictions


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        pytest.param(
            {"status": "great"}, "status = 'great'; choose from running, lost", id="state"
        ),
        pytest.param({"result": None}, "'completed' needs a result", id="completed-without-result"),
        pytest.param(
            {"result": make_result(status=Status.FAILED)}, "result says 'failed'", id="disagree"
        ),
        pytest.param(
            {"result": make_result("other")}, "run_id = 'other', expected 'run-1'", id="run-id"
        ),
        pytest.param(
            {"result": make_result(spec=make_spec(seed=12))}, "result of another run", id="spec-id"
        ),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        make_run(**changes)


def test_a_bad_moment_is_refused_with_nothing_stored(store):
    with pytest.raises(ConfigurationError, match=r"submitted_at = 'yesterday'.*ISO 8601"):
        store.save_run(make_run(study_id="", submitted_at="yesterday"))
    provenance = make_provenance(started_at="noon")
    with pytest.raises(ConfigurationError, match="started_at = 'noon'"):
        store.save_run(make_run(study_id="", result=make_result(provenance=provenance)))
    assert store.run("run-1") is None


def test_a_run_of_an_unknown_study_is_refused_with_the_fix(store):
    with pytest.raises(ConfigurationError, match="A study is stored before its runs"):
        store.save_run(make_run())


def test_a_doubled_metric_is_refused_and_the_stored_run_stays_whole(store):
    store.save_run(make_run(study_id=""))
    doubled = make_result(metrics=(Metric(name="a", value=1.0, unit="s"),) * 2)
    with pytest.raises(ConfigurationError, match="nothing of it was stored"):
        store.save_run(make_run(study_id="", result=doubled))
    assert same(store.run("run-1"), make_run(study_id=""))


# studies, data sets, environment


def test_a_study_comes_back_and_an_update_keeps_links(store):
    study = make_study(
        note=ODD_TEXT, mlflow_run_id="m", mlflow_experiment_id="1", report_uri="s3://r"
    )
    store.save_study(study)
    assert store.study("study-1") == study
    ended = make_study(status="completed", ended_at="2026-11-22T03:00:00Z", report_path="/r.html")
    store.save_study(ended)
    back = store.study("study-1")
    assert (back.status, back.ended_at) == ("completed", "2026-11-22T03:00:00.000000+00:00")
    assert (back.mlflow_run_id, back.report_uri, back.report_path) == ("m", "s3://r", "/r.html")
    assert store.study("other") is None


def test_a_study_with_an_unknown_state_is_refused():
    with pytest.raises(ConfigurationError, match="choose from planned, running, completed, failed"):
        make_study(status="done")


MANIFEST = {
    "name": "digits",
    "digest": DIGEST,
    "size_bytes": 2**40,
    "source": "https://example.org/digits.zip",
    "licence": "CC BY 4.0",
    "retrieved_at": "2026-11-22T01:00:00Z",
    "bucket": "trainyard",
    "object_key": f"datasets/sha256/{DIGEST}",
    "counts": {"train": 1437},
    "quality": [{"name": "balance", "value": math.nan}],
}


def test_a_manifest_is_kept_whole_and_once(store):
    store.save_dataset(MANIFEST)
    store.save_dataset(MANIFEST | {"licence": "other"})
    (row,) = store.query("dataset", name="digits", digest=DIGEST)
    assert (row["size_bytes"], row["licence"]) == (2**40, "other")
    kept = json.loads(row["manifest"])
    assert kept["counts"] == {"train": 1437}
    assert kept["quality"] == [{"name": "balance", "value": "nan"}]


def test_a_manifest_that_lacks_fields_is_refused(store):
    with pytest.raises(ConfigurationError, match="lacks source, licence"):
        store.save_dataset({k: v for k, v in MANIFEST.items() if k not in {"source", "licence"}})


def check(name, checked_at="2026-11-22T01:00:00Z", **changes):
    values = {
        "site": "laptop",
        "checked_at": checked_at,
        "name": name,
        "measured": "2 cores",
        "requirement": "at least 2",
        "verdict": "passed",
    }
    return EnvironmentCheck(**{**values, **changes})


def test_a_verification_is_stored_once_in_its_order(store):
    store.save_environment_checks([check("memory"), check("cores")])
    store.save_environment_checks([check("memory", measured="3 cores"), check("cores")])
    store.save_environment_checks([])
    rows = store.query("environment_latest", site="laptop")
    assert [(row["name"], row["measured"]) for row in rows] == [
        ("memory", "3 cores"),
        ("cores", "2 cores"),
    ]


def test_an_unknown_verdict_is_refused():
    with pytest.raises(ConfigurationError, match="verdict = 'fine'; choose from passed, warning"):
        check("cores", verdict="fine")
