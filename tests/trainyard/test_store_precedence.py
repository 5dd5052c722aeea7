"""A stored run never gives way to one that knows less, whoever writes first, last or at once."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading

import pytest

from tests.fixtures.samples import make_result, make_run
from trainer.contract import Phase, Status
from trainyard.store import RunState, open_store, precedence

LADDER = [
    ("running", None),
    ("lost", None),
    ("failed", None),
    ("cancelled", None),
    ("failed", Status.FAILED),
    ("completed", Status.COMPLETED),
]


def rung(step, ended_at="2026-11-22T03:00:00+00:00"):
    status, result_status = LADDER[step]
    result = make_result(status=result_status, phase=Phase.TRAIN) if result_status else None
    return make_run(
        study_id="", status=status, result=result, reason=f"rung {step}", ended_at=ended_at
    )


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(range(len(LADDER)), 2)))
def test_the_row_that_knows_more_stays_whatever_the_order(store, first, second):
    assert store.save_run(rung(first))
    # The later moment must not help the row that knows less.
    assert store.save_run(rung(second, "2026-11-22T04:00:00+00:00")) is (second > first)
    assert store.run("run-1").reason == f"rung {max(first, second)}"


def test_of_two_that_know_the_same_the_later_end_stays(store):
    early, late = "2026-11-22T03:00:00+00:00", "2026-11-22T03:00:01+00:00"
    assert store.save_run(rung(5, late))
    assert not store.save_run(rung(5, early))
    assert store.run("run-1").ended_at == "2026-11-22T03:00:01.000000+00:00"
    assert store.save_run(rung(5, late))
    assert not store.save_run(rung(5, "2026-11-22T04:59:59+02:00")), "zones must be compared as UTC"


def test_every_state_has_a_precedence_and_results_come_first():
    without = {s: precedence(s, has_result=False) for s in RunState if s != RunState.COMPLETED}
    with_result = {s: precedence(s, has_result=True) for s in RunState}
    assert len({*without.values(), *with_result.values()}) == 2 * len(RunState) - 1
    assert max(without.values()) < min(with_result.values())
    assert max(with_result, key=with_result.get) == RunState.COMPLETED


def test_concurrent_writers_leave_one_whole_row_of_the_best(store, results_url):
    """Six writers, one per rung, several times over in random order, each on its own connection."""
    errors = []

    def write(steps):
        try:
            with open_store(results_url) as mine:
                for step in steps:
                    mine.save_run(rung(step))
        except Exception as error:  # noqa: BLE001  # shown by the assertion below
            errors.append(error)

    chooser = random.Random(5)
    orders = [chooser.sample(range(len(LADDER)), len(LADDER)) for _ in range(6)]
    threads = [threading.Thread(target=write, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert repr(store.run("run-1")) == repr(
        dataclasses.replace(rung(5), ended_at="2026-11-22T03:00:00.000000+00:00"),
    )


def test_a_losing_row_still_fills_in_missing_links(store):
    store.save_run(rung(5))
    late = dataclasses.replace(rung(1), mlflow_run_id="m1", mlflow_url="http://m/1")
    assert not store.save_run(late)
    assert store.run("run-1").mlflow_run_id == "m1"
    store.save_run(rung(5))
    assert store.run("run-1").mlflow_url == "http://m/1", "a row without links must not erase them"
    store.save_run(dataclasses.replace(rung(0), mlflow_run_id="m2"))
    assert store.run("run-1").mlflow_run_id == "m1", "a losing row must not replace a link"


def test_link_run_sets_links_and_leaves_the_others(store):
    store.save_run(rung(5))
    store.link_run("run-1", mlflow_run_id="m1", mlflow_url="u1")
    store.link_run("run-1", artifacts_uri="s3://bucket/run-1", mlflow_run_id="m2")
    back = store.run("run-1")
    assert (back.mlflow_run_id, back.mlflow_url, back.artifacts_uri) == (
        "m2",
        "u1",
        "s3://bucket/run-1",
    )
