"""Keys that find a job again, and job ids in every spelling."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.errors import ConfigurationError
from trainyard.slurm.errors import GarbageOutputError
from trainyard.slurm.identity import JobId, JobIdentity, JobKey, generation_of, is_ours

KEYS = st.builds(
    JobKey,
    namespace=st.text(),
    run_id=st.text(min_size=1),
    generation=st.integers(0, 10**6),
)


@given(KEYS)
def test_a_key_makes_one_safe_name_whatever_is_in_it(key):
    again = JobKey(namespace=key.namespace, run_id=key.run_id, generation=key.generation)
    assert again.name == key.name
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,139}", key.name)
    assert is_ours(key.name, key.namespace)
    assert generation_of(key.name) == key.generation


@given(KEYS, KEYS)
def test_two_keys_never_share_a_name(one, other):
    assert (one.name == other.name) == (one == other)


def test_names_that_only_differ_in_what_is_cleaned_or_cut_stay_apart():
    names = {JobKey(namespace="n", run_id=run).name for run in ("a b", "a;b", "a\nb", "ä")}
    names |= {JobKey(namespace="n", run_id="x" * 200 + end).name for end in "12"}
    assert len(names) == 6


def test_another_namespace_is_not_ours():
    key = JobKey(namespace="/scratch/a", run_id="run")
    assert not is_ours(key.name, "/scratch/b")
    assert not is_ours("interactive", "/scratch/a")
    with pytest.raises(ValueError, match="interactive"):
        generation_of("interactive")


def test_a_resubmission_has_another_name():
    key = JobKey(namespace="n", run_id="run")
    assert key.next().generation == 1
    assert key.next().name != key.name


def test_a_key_needs_a_run():
    with pytest.raises(ConfigurationError, match="run_id"):
        JobKey(namespace="n", run_id="")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", JobId(base=12)),
        ("12_3", JobId(base=12, task=3)),
        ("12_[1-9%2]", JobId(base=12, tasks=((1, 9, 1),), throttle=2)),
        ("12_[1,3,5-7]", JobId(base=12, tasks=((1, 1, 1), (3, 3, 1), (5, 7, 1)))),
        ("12_[0-8:4]", JobId(base=12, tasks=((0, 8, 4),))),
        ("12_[1-3,5,...]", JobId(base=12, tasks=((1, 3, 1), (5, 5, 1)), open_ended=True)),
        ("12+1", JobId(base=12, component=1)),
        ("12.batch", JobId(base=12, step="batch")),
        ("12_3.0", JobId(base=12, task=3, step="0")),
        ("12+0.extern", JobId(base=12, component=0, step="extern")),
    ],
)
def test_job_ids_are_read_in_every_spelling(text, expected):
    assert JobId.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "12_", "12_[", "12_[5-3]", "12_[a]", "-1", "12 13", "1;2"]
)
def test_other_texts_are_no_job_id(text):
    with pytest.raises(GarbageOutputError, match="job id"):
        JobId.parse(text)


def test_a_compact_id_stands_for_its_elements_only():
    compact = JobId.parse("12_[1-3,8-12:2%4]")
    assert [task for task in range(14) if compact.covers(task)] == [1, 2, 3, 8, 10, 12]
    assert JobId.parse("12_[1-3,...]").covers(99)
    assert not JobId.parse("12_[1-3,...]").covers(0)
    assert not JobId.parse("12").covers(0)


@given(st.integers(1, 10**7), st.none() | st.integers(0, 4000))
def test_ids_are_printed_as_they_are_read(base, task):
    job_id = JobId(base=base, task=task)
    assert JobId.parse(str(job_id)) == job_id


def test_identity_tells_attempts_of_one_id_apart():
    first = JobIdentity(cluster="c", job_id=7, submitted=100)
    assert str(first) != str(JobIdentity(cluster="c", job_id=7, submitted=100, restarts=1))
    assert str(first) != str(JobIdentity(cluster="c", job_id=7, submitted=200))
    assert str(first) != str(JobIdentity(cluster="d", job_id=7, submitted=100))
