"""What a run's jobs used, where accounting lags, says nothing, or knows more than the wrapper."""

import pytest

from trainyard.backends.base import JobUsage
from trainyard.backends.slurm_usage import PAUSES_S, usage_of
from trainyard.slurm.errors import CommandFailedError
from trainyard.slurm.identity import JobId
from trainyard.slurm.records import Accounting


def note(job, state="exit code 0"):
    return JobUsage(
        cluster="c", job_id=job, attempt=9, state=state, node_list="n1", source="wrapper"
    )


def row(job, state, submitted=0):
    return Accounting(job_id=JobId.parse(str(job)), name="x", state=state, submitted=submitted)


class Sacct:
    """Answers with one list of rows after the other; the last one stays."""

    def __init__(self, *answers):
        self.answers, self.slept = list(answers), []

    def __call__(self, jobs):
        found = self.answers[0]
        if len(self.answers) > 1:
            self.answers.pop(0)
        return [row for row in found if row.job_id.base in jobs]

    def used(self, noted, jobs):
        found = usage_of(noted, jobs, ask=self, cluster="c", sleep=self.slept.append)
        assert [use.attempt for use in found] == list(range(len(found)))
        return [(use.job_id, use.source, use.state) for use in found]


def test_accounting_that_knows_all_is_believed_at_once():
    sacct = Sacct([row(5, "COMPLETED", 20), row(4, "PREEMPTED", 10)])
    assert sacct.used([note(4), note(5)], {4, 5}) == [
        (4, "sacct", "PREEMPTED"), (5, "sacct", "COMPLETED"),
    ]  # fmt: skip
    assert sacct.slept == []


@pytest.mark.parametrize("early", [[], [row(5, "RUNNING", 20)], [row(5, "COMPLETING", 20)]])
def test_a_record_that_lags_is_waited_for(early):
    first = row(4, "PREEMPTED", 10)
    sacct = Sacct([first, *early], [first, *early], [first, row(5, "COMPLETED", 20)])
    assert sacct.used([note(4), note(5)], {4, 5})[1] == (5, "sacct", "COMPLETED")
    assert sacct.slept == list(PAUSES_S[:2])


@pytest.mark.parametrize("late", [[], [row(5, "RUNNING", 20)]])
def test_a_record_that_never_comes_leaves_the_wrappers_note(late):
    sacct = Sacct([row(4, "PREEMPTED", 10), *late])
    assert sacct.used([note(4), note(5)], {4, 5}) == [
        (4, "sacct", "PREEMPTED"), (5, "wrapper", "exit code 0"),
    ]  # fmt: skip
    assert sacct.slept == list(PAUSES_S)


def test_each_attempt_of_a_requeued_job_is_counted_once():
    attempts = [note(4, "ended without a word"), note(4)]
    sacct = Sacct([row(4, "REQUEUED", 10), row(4, "COMPLETED", 20)])
    assert [state for _, _, state in sacct.used(attempts, {4})] == ["REQUEUED", "COMPLETED"]
    sacct = Sacct([row(4, "REQUEUED", 10)])
    # Its one record is not final, and no second one came: the wrapper saw both.
    assert [source for _, source, _ in sacct.used(attempts, {4})] == ["wrapper", "wrapper"]


def test_a_job_that_never_ran_has_accountings_word_alone():
    assert Sacct([row(4, "CANCELLED")]).used([], {4}) == [(4, "sacct", "CANCELLED")]
    assert Sacct([row(4, "PENDING")]).used([], {4}) == [(4, "sacct", "PENDING")]
    assert Sacct([]).used([], {4}) == []


def test_a_cluster_that_refuses_is_told_to_the_caller():
    def ask(jobs):
        raise CommandFailedError("no accounting")

    with pytest.raises(CommandFailedError):
        usage_of([note(4)], {4}, ask=ask, cluster="c")
