"""Which records are ours, arrays and het jobs, and the files a wrapper leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainyard.slurm.test_slurm_judge import TARGET, Story, record
from trainyard.slurm.arrays import aggregate
from trainyard.slurm.breadcrumbs import read_breadcrumb, read_exit_file
from trainyard.slurm.evidence import select
from trainyard.slurm.identity import JobId
from trainyard.slurm.states import Outcome, Phase
from trainyard.slurm.verdict import Kind

# -- which records are ours


def test_records_of_other_jobs_with_the_same_id_are_left_out():
    ours = record("RUNNING")
    records = [record("FAILED", name="other"), record("FAILED", submitted=50), ours]
    assert select([*records, record("RUNNING", job_id=JobId(base=8))], TARGET) == [ours]


def test_the_liveliest_het_component_stands_for_the_job_and_then_the_worst():
    def parts(*states):
        return [record(state, job_id=JobId(base=7, component=i)) for i, state in enumerate(states)]

    assert select(parts("COMPLETED", "RUNNING"), TARGET)[0].state == "RUNNING"
    assert select(parts("COMPLETED", "COMPLETING"), TARGET)[0].rule.phase is Phase.ENDING
    assert select(parts("COMPLETED", "FAILED"), TARGET)[0].state == "FAILED"
    assert select(parts("COMPLETED", "COMPLETED"), TARGET)[0].state == "COMPLETED"


def test_an_array_element_is_found_in_its_row_or_in_the_compact_one():
    element = replace(TARGET, task=3)
    waiting = record("PENDING", job_id=JobId.parse("7_[2-9%2]"))
    other = record("RUNNING", job_id=JobId.parse("7_1"))
    assert select([waiting, other], element) == [waiting]
    mine = record("RUNNING", job_id=JobId.parse("7_3"))
    assert select([waiting, other, mine], element) == [mine]


def test_an_array_is_as_good_as_its_worst_element():
    good = Story().shows("COMPLETED").wrote(0).verdict()
    bad = Story().shows("FAILED").wrote(2).verdict()
    runs = Story().shows("RUNNING").verdict()
    whole = aggregate({0: good, 1: bad, 2: runs})
    assert (whole.kind, whole.outcome, whole.failed) == (Kind.RUNNING, None, (1,))
    assert whole.text == "failed 1, running 1, succeeded 1"
    assert aggregate({0: good, 1: bad}).outcome is Outcome.FAILED
    assert aggregate({0: good, 1: good}).outcome is Outcome.SUCCEEDED
    with pytest.raises(ValueError, match="without elements"):
        aggregate({})


# -- the wrapper's files


@pytest.mark.parametrize("text", ["", "x", "-1", "256", "0 0", "1.5", "\x00", "²"])
def test_an_exit_file_that_is_no_exit_code_is_not_there_yet(tmp_path, text):
    (tmp_path / "exit_code").write_text(text)
    assert read_exit_file(tmp_path / "exit_code", tmp_path / "job.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"job_id": "x"}', '{"job_id": null}'])
def test_a_damaged_breadcrumb_is_none(tmp_path, text):
    (tmp_path / "job.json").write_text(text)
    assert read_breadcrumb(tmp_path / "job.json") is None


def test_exit_code_and_breadcrumb_are_read_together(tmp_path):
    (tmp_path / "exit_code").write_text("3\n")
    found = read_exit_file(tmp_path / "exit_code", tmp_path / "job.json")
    assert (found.code, found.job_id) == (3, None)
    (tmp_path / "job.json").write_text(
        '{"job_id": 9, "array_job_id": 7, "restarts": 2, "name": "n", "other": 1}'
    )
    found = read_exit_file(tmp_path / "exit_code", tmp_path / "job.json")
    assert (found.job_id, found.restarts) == (7, 2)
