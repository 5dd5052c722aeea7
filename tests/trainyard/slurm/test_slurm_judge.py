"""What may be concluded from what was seen: the rules of docs/slurm-states.md, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.slurm import evidence as fold
from trainyard.slurm.breadcrumbs import ExitFile
from trainyard.slurm.evidence import Evidence, Target
from trainyard.slurm.identity import JobId
from trainyard.slurm.judge import judge
from trainyard.slurm.profile import ClusterProfile, QueryPlan
from trainyard.slurm.records import JobRecord, Partition, Source
from trainyard.slurm.states import STATES, Outcome, Taint
from trainyard.slurm.verdict import Kind

TARGET = Target(cluster="c", job_id=7, name="ty-key", submitted=100, run_dir="/runs/x")
KILLED = ("CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "NODE_FAIL", "BOOT_FAIL")
NOW = 5000.0


def profile(*, sacct: bool = False, mode: str = "OFF") -> ClusterProfile:
    partition = Partition(
        name="p", default=True, up=True, max_time_s=None, max_nodes=None, total_nodes=2,
        preempt_mode=mode,
    )  # fmt: skip
    return ClusterProfile(
        cluster="c", version=(22, 5, 8), user="ty", min_job_age_s=300, accounting=sacct,
        partitions=(partition,), plan=QueryPlan(use_sacct=sacct),
    )  # fmt: skip


def record(state: str, source: Source = Source.SQUEUE, **changes) -> JobRecord:
    values = {"job_id": JobId(base=7), "name": "ty-key", "submitted": 100, "nodes": "n1"}
    return JobRecord(source=source, state=state, partition="p", **(values | changes))


class Story:
    """Evidence told in order, each event some seconds after the one before."""

    def __init__(self, **options):
        self.profile = profile(**options)
        self.evidence = Evidence(target=TARGET)
        self.now = NOW

    def after(self, seconds: float) -> Story:
        self.now += seconds
        return self

    def shows(self, state: str, **changes) -> Story:
        self.evidence = fold.seen(self.evidence, record(state, **changes), self.now)
        return self

    def lacks(self, times: int = 1) -> Story:
        for _ in range(times):
            self.after(10)
            self.evidence = fold.absent(self.evidence, self.now)
        return self

    def denies(self) -> Story:
        self.evidence = fold.denied(self.evidence, self.now)
        return self

    def accounts(self, *states: str, **changes) -> Story:
        attempts = [
            record(state, Source.SACCT, submitted=100 + 50 * index, **changes)
            for index, state in enumerate(states)
        ]
        self.evidence = fold.accounted(self.evidence, attempts, self.now)
        return self

    def wrote(self, code: int | None, **changes) -> Story:
        found = None if code is None else ExitFile(code=code, written_ns=1, job_id=7, **changes)
        self.evidence = fold.looked(self.evidence, found)
        return self

    def silent(self) -> Story:
        self.evidence = fold.unreachable(self.evidence, self.now)
        return self

    def verdict(self):
        return judge(self.evidence, self.now, self.profile)

    def outcome(self):
        return self.verdict().outcome

    @property
    def kind(self):
        return self.verdict().kind


@pytest.mark.parametrize("state", STATES)
def test_no_single_answer_is_a_final_verdict(state):
    """Whatever Slurm says once, without the wrapper's word nothing is final."""
    assert Story(mode="REQUEUE").shows(state).kind is not Kind.FINAL
    assert Story(sacct=True).lacks().accounts(state).kind is not Kind.FINAL


def test_success_needs_the_record_and_the_exit_code():
    story = Story().shows("COMPLETED")
    assert story.kind is Kind.ENDING
    verdict = story.wrote(0).verdict()
    assert (verdict.outcome, verdict.exit_code) == (Outcome.SUCCEEDED, 0)
    assert verdict.sources == ("squeue", "exit_code")


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_completed_without_exit_code_is_never_a_success(seconds, looks):
    story = Story()
    for _ in range(looks):
        story.after(seconds / looks).shows("COMPLETED").wrote(None)
    assert story.outcome() in {None, Outcome.CONTRADICTED}


def test_completed_without_exit_code_ends_as_a_contradiction_that_says_why():
    story = Story()
    for _ in range(4):
        story.shows("COMPLETED").wrote(None).after(101)
    verdict = story.verdict()
    assert verdict.outcome is Outcome.CONTRADICTED
    assert "/runs/x holds no exit code" in verdict.why


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 1), ("FAILED", 0), ("TIMEOUT", 0)])
def test_sources_that_disagree_are_not_believed_either_way(state, code):
    story = Story().shows(state).wrote(code)
    assert story.kind is Kind.ENDING
    story.after(30).shows(state).after(31).shows(state)
    assert story.outcome() is Outcome.CONTRADICTED


def test_a_disagreement_that_resolves_is_none():
    story = Story().shows("FAILED").wrote(0).after(30).shows("COMPLETED")
    assert story.outcome() is Outcome.SUCCEEDED


@pytest.mark.parametrize("state", KILLED)
def test_a_killed_job_is_over_when_its_wrapper_said_so(state):
    assert Story().shows(state).wrote(143).outcome() == STATES[state].outcome


@pytest.mark.parametrize("state", [*KILLED, "FAILED"])
def test_a_killed_wrapper_is_given_time_to_show_its_exit_code(state):
    story = Story().shows(state).wrote(None)
    story.after(30).shows(state).wrote(None)
    assert story.kind is Kind.ENDING
    assert story.after(31).outcome() == STATES[state].outcome


@pytest.mark.parametrize("state", ["CANCELLED", "DEADLINE"])
def test_a_job_that_never_had_nodes_has_no_exit_code_to_wait_for(state):
    story = Story().shows(state, nodes="").wrote(None)
    assert story.kind is Kind.ENDING, "one answer is not enough"
    assert story.after(7).shows(state, nodes="").outcome() == STATES[state].outcome


def test_failed_with_its_exit_code():
    verdict = Story().shows("FAILED").wrote(3).verdict()
    assert (verdict.outcome, verdict.exit_code, verdict.resubmit) == (Outcome.FAILED, 3, False)


@pytest.mark.parametrize("state", ["NODE_FAIL", "BOOT_FAIL"])
def test_the_nodes_fault_may_be_submitted_again(state):
    verdict = Story().shows(state).wrote(143).verdict()
    assert verdict.resubmit
    assert verdict.nodes == "n1"


def test_what_waits_runs_and_ends_is_told_apart():
    assert Story().shows("PENDING", reason="Priority").kind is Kind.WAITING
    assert Story().shows("CONFIGURING").kind is Kind.RUNNING
    assert Story().shows("COMPLETING").wrote(0).kind is Kind.ENDING


def test_a_reason_for_never_starting_must_stand():
    story = Story().shows("PENDING", reason="BadConstraints", nodes="")
    assert story.kind is Kind.WAITING
    verdict = story.after(121).shows("PENDING", reason="BadConstraints", nodes="").verdict()
    assert verdict.kind is Kind.STUCK
    assert "sinfo" in verdict.fix
    story.shows("PENDING", reason="Resources", nodes="")
    assert story.kind is Kind.WAITING
    story.shows("PENDING", reason="BadConstraints", nodes="")
    assert story.kind is Kind.WAITING, "the time counts anew"


@pytest.mark.parametrize("state", ["REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"])
def test_held_jobs_say_how_to_release_them(state):
    assert "release" in Story().shows(state).verdict().fix


def test_an_unreachable_controller_is_unknown_and_keeps_the_last_state():
    verdict = Story().shows("RUNNING").after(5).silent().after(600).verdict()
    assert (verdict.kind, verdict.state) == (Kind.UNKNOWN, "RUNNING")
    assert "600 s" in verdict.why
    assert Story().silent().kind is Kind.UNKNOWN


def test_an_unreachable_controller_does_not_hide_what_is_already_proven():
    assert Story().shows("COMPLETED").silent().wrote(0).outcome() is Outcome.SUCCEEDED


# -- absence


def test_absence_with_an_exit_code_needs_three_answers_or_a_denial():
    story = Story().shows("RUNNING").wrote(0).lacks(2)
    assert story.kind is Kind.UNKNOWN
    assert story.lacks().outcome() is Outcome.SUCCEEDED
    assert Story().shows("RUNNING").lacks().denies().wrote(4).outcome() is Outcome.FAILED


def test_absence_without_anything_needs_answers_a_deadline_and_a_denial():
    story = Story().shows("RUNNING").lacks(3).wrote(None).wrote(None).denies()
    assert story.kind is Kind.UNKNOWN
    assert story.lacks(26).kind is Kind.UNKNOWN
    assert story.lacks(3).outcome() is Outcome.LOST
    assert not story.verdict().resubmit
    story.evidence = replace(story.evidence, denied=False)
    assert story.kind is Kind.UNKNOWN, "silence of squeue alone never loses a job"


def test_a_job_that_reappears_clears_the_deadline():
    story = Story().shows("RUNNING").lacks(29).denies().wrote(None).wrote(None)
    story.shows("RUNNING").lacks(3).denies()
    assert story.kind is Kind.UNKNOWN


def test_answers_far_apart_are_not_in_a_row_but_the_deadline_goes_on():
    story = Story().shows("RUNNING").lacks(3).denies().wrote(None).wrote(None)
    since = story.evidence.absent_since
    story.after(3600).lacks()
    assert (story.evidence.absent_since, story.evidence.absences) == (since, 1)
    assert story.kind is Kind.UNKNOWN
    assert story.lacks(2).denies().outcome() is Outcome.LOST


def test_a_clock_set_back_starts_the_deadline_anew():
    story = Story().shows("RUNNING").lacks(3)
    story.now -= 7200
    story.lacks()
    assert story.evidence.absent_since == story.now


def test_last_record_of_an_end_counts_after_the_controller_forgot_it():
    story = Story().shows("TIMEOUT").wrote(None).lacks(3).wrote(None).after(60)
    assert story.outcome() is Outcome.TIMEOUT


def test_accounting_proves_what_the_controller_forgot():
    story = Story(sacct=True).shows("RUNNING").lacks().accounts("COMPLETED").wrote(0)
    assert story.verdict().sources == ("sacct", "exit_code")
    assert story.outcome() is Outcome.SUCCEEDED


def test_accounting_may_say_why_a_job_left_an_exit_code_other_than_0():
    story = Story(sacct=True).shows("RUNNING").lacks(3).wrote(143)
    assert story.kind is Kind.UNKNOWN, "a cancelled job's wrapper writes 143, too"
    assert replace(story.verdict(), outcome=None) == story.verdict()
    story.accounts("CANCELLED")
    assert story.outcome() is Outcome.CANCELLED
    story = Story(sacct=True).shows("RUNNING").lacks(3).wrote(143).accounts().accounts()
    assert story.outcome() is Outcome.FAILED, "accounting does not know it"
    story = Story(sacct=True).shows("RUNNING").lacks(31).wrote(143)
    assert story.outcome() is Outcome.FAILED, "accounting does not answer"


def test_accounting_that_lags_is_not_believed_against_the_controller():
    story = Story(sacct=True).shows("RUNNING", submitted=300).lacks(31).accounts("FAILED")
    story.wrote(1)
    assert story.verdict().sources == ("absence", "exit_code"), "an attempt before the one shown"


def test_accounting_that_still_says_running_is_waited_for():
    story = Story(sacct=True).shows("RUNNING").lacks(40).denies().wrote(None).wrote(None)
    story.accounts("RUNNING").accounts("RUNNING")
    assert story.kind is Kind.UNKNOWN
    assert story.lacks(150).denies().outcome() is Outcome.LOST


# -- attempts


def test_a_requeue_taints_and_makes_old_exit_codes_stale():
    story = Story().shows("RUNNING").wrote(143, restarts=0).shows("PENDING", submitted=300)
    assert story.verdict().taints == (Taint.REQUEUED,)
    assert story.verdict().identity.restarts == 1
    story.shows("COMPLETED", submitted=300).wrote(143, restarts=0)
    assert story.kind is Kind.ENDING, "the exit code of the first attempt"
    assert story.wrote(0, restarts=1).outcome() is Outcome.SUCCEEDED


def test_an_exit_file_of_another_job_is_none():
    story = Story().shows("COMPLETED")
    story.evidence = fold.looked(story.evidence, ExitFile(code=0, job_id=8))
    assert story.kind is Kind.ENDING


def test_an_old_exit_file_without_breadcrumb_is_stale_until_it_changes():
    story = Story().shows("COMPLETED")
    story.evidence = fold.looked(story.evidence, ExitFile(code=3, written_ns=5))
    story.shows("RUNNING", submitted=300).shows("COMPLETED", submitted=300)
    story.evidence = fold.looked(story.evidence, ExitFile(code=3, written_ns=5))
    assert story.kind is Kind.ENDING
    story.evidence = fold.looked(story.evidence, ExitFile(code=0, written_ns=6))
    assert story.outcome() is Outcome.SUCCEEDED


def test_suspension_taints_for_good():
    story = Story().shows("SUSPENDED").shows("RUNNING").shows("COMPLETED").wrote(0)
    assert story.verdict().taints == (Taint.SUSPENDED,)


def test_an_overtaken_answer_changes_nothing():
    story = Story().shows("RUNNING", submitted=300)
    before = story.evidence
    assert fold.seen(before, record("PENDING", submitted=100), story.now) == before
