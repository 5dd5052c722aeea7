"""Run ids and run paths: short, safe, distinct, and the same for every try."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.paths import RunPaths, run_id_of

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def test_reads_as_what_it_names():
    found = run_id_of("nightly", "manual__2026-11-22T02:00:00+00:00", "run_on_cpu", 3)
    assert found.startswith("nightly.manual__2026-11-22T02-00-00-00-00.run_on_cpu.3-")


def test_is_the_same_every_time_and_names_no_try():
    assert run_id_of("d", "r", "t", 1) == run_id_of("d", "r", "t", 1)


@pytest.mark.parametrize(
    "hostile",
    ["../../etc/passwd", "a b", "$(reboot)", "a;b", "'", '"', "\n", "ümläut", "", "." * 9],
)
def test_hostile_names_become_safe_folder_names(hostile, tmp_path):
    found = run_id_of("dag", hostile, "task", 0)
    assert SAFE.fullmatch(found)
    paths = RunPaths(root=tmp_path, run_id=found)
    assert paths.run_dir.parent == tmp_path
    assert paths.run_dir.resolve().parent == tmp_path.resolve()


def test_names_that_look_alike_after_cleaning_stay_apart():
    assert run_id_of("d", "a b", "t") != run_id_of("d", "a-b", "t")
    assert run_id_of("d", "a", "b.c") != run_id_of("d", "a.b", "c")


@given(st.text(max_size=400), st.text(max_size=400), st.integers(-1, 1023))
def test_is_short_and_safe_whatever_airflow_calls_things(dag_run, task, index):
    found = run_id_of("dag", dag_run, task, index)
    assert SAFE.fullmatch(found)
    assert len(found) <= 120


OUTSIDE = {"run_dir", "lock", "claim"}


def test_every_file_lies_in_the_run_folder_but_lock_and_claim():
    paths = RunPaths(root=Path("/runs"), run_id="r")
    properties = [n for n in dir(RunPaths) if isinstance(getattr(RunPaths, n), property)]
    places = {name: getattr(paths, name) for name in properties if name not in OUTSIDE}
    assert all(path.parent == paths.run_dir for path in places.values())
    assert len(set(places.values())) == len(places), "two names for one file"
    assert paths.run_dir not in paths.lock.parents


def test_attempts_are_siblings():
    paths = RunPaths(root=Path("/runs"), run_id="r")
    assert paths.attempt(1) is paths
    assert paths.attempt(3).run_dir == Path("/runs/r.attempt-3")
