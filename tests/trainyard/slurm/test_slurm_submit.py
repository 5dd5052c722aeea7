"""One job for each key, whatever fails and whoever is killed in between."""

from __future__ import annotations

import json
import threading
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_campaign import Guillotine, Killed, mortal_journal
from tests.fakes.slurm_faults import SUBMIT_FAULTS, Fault
from tests.fakes.slurm_jobs import Life, Plan, killed
from trainyard.paths import RunPaths
from trainyard.slurm import submit as submit_module
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import (
    ControllerUnreachableError,
    SlurmError,
    SubmissionRefusedError,
    SubmissionUnknownError,
    SubmissionUnsentError,
)
from trainyard.slurm.identity import JobKey
from trainyard.slurm.journal import Attempt, JournalFile, Step
from trainyard.slurm.profile import probe
from trainyard.slurm.submit import SubmitPatience, SubmitRequest, Submitter


class Desk:
    """A cluster, a run folder and as many submitting processes as asked for."""

    def __init__(self, folder: Path, **options):
        self.cluster = FakeCluster(**options)
        self.paths = RunPaths(root=folder, run_id="run")
        self.key = JobKey(namespace=str(folder), run_id="run")
        self.profile = probe(self.client())
        self.plan()

    def client(self, transport=None) -> SlurmClient:
        clock = self.cluster.clock
        budget = CommandBudget(rate=5, burst=20, clock=clock, sleep=clock.sleep)
        return SlurmClient(transport or self.cluster, budget=budget)

    def plan(self, *lives: Life, **more) -> None:
        plan = Plan(lives=lives or (Life(),), run_dir=self.paths.run_dir, **more)
        self.cluster.plans[self.key.name] = plan

    def submit(self, transport=None, *, key=None, arguments=(), patience=None):
        clock = self.cluster.clock
        submitter = Submitter(
            self.client(transport), self.profile, clock=clock, sleep=clock.sleep, patience=patience
        )
        request = SubmitRequest(
            key=key or self.key, paths=self.paths, script="#!/bin/bash\n", arguments=arguments
        )
        return submitter.submit(request)

    def fault(self, command: str, *faults: Fault) -> None:
        self.cluster.faults[command] = deque(faults)

    @property
    def sent(self) -> int:
        return self.cluster.commands["sbatch"]

    @property
    def steps(self) -> list[Step]:
        return [attempt.step for attempt in JournalFile(self.paths.journal).read().attempts]


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def test_a_job_carries_its_key_as_name_and_comment(desk):
    submission = desk.submit(arguments=("--partition=main",))
    (job,) = desk.cluster.jobs
    assert (job.name, job.comment) == (desk.key.name, desk.key.comment)
    assert (submission.adopted, submission.target.job_id) == (False, job.base)
    assert submission.target.submitted == int(job.submitted)


def test_submitting_again_costs_no_command_and_gives_the_same_job(desk):
    first = desk.submit()
    asked = sum(desk.cluster.commands.values())
    again = desk.submit()
    assert (again.target, again.adopted) == (first.target, True)
    assert sum(desk.cluster.commands.values()) == asked


@pytest.mark.parametrize("fault", SUBMIT_FAULTS)
def test_every_failure_of_sbatch_leads_to_one_job(desk, fault):
    desk.fault("sbatch", fault)
    try:
        desk.submit()
    except SlurmError:
        desk.submit()
    assert len(desk.cluster.jobs) == 1
    assert desk.steps[-1] in {Step.ACCEPTED, Step.ADOPTED}


@pytest.mark.parametrize("age", [15.0, 300.0])
@pytest.mark.parametrize("accounting", [True, False])
def test_a_job_that_has_already_ended_is_adopted(tmp_path, age, accounting):
    desk = Desk(tmp_path, min_job_age=age, accounting=accounting)
    desk.plan(Life(wait_s=0, run_s=2))
    desk.fault("sbatch", Fault.TIMEOUT_ACCEPTED)
    assert desk.submit().adopted
    assert desk.sent == 1


def test_a_refused_job_is_not_sent_again(desk):
    with pytest.raises(SubmissionRefusedError, match="sinfo"):
        desk.submit(arguments=("--partition=nosuch",))
    assert (desk.sent, desk.steps) == (1, [Step.REFUSED])
    assert not desk.cluster.jobs


def test_a_job_that_never_reached_the_controller_may_be_sent_later(desk):
    desk.fault("sbatch", Fault.UNREACHABLE)
    with pytest.raises(SubmissionUnsentError):
        desk.submit()
    assert desk.steps == [Step.UNSENT]
    assert not desk.submit().adopted


def test_nothing_is_sent_while_the_controller_cannot_be_searched(desk):
    desk.cluster.controller_down = True
    with pytest.raises(ControllerUnreachableError):
        desk.submit()
    assert desk.sent == 0


def test_an_unclear_submission_is_searched_for_before_it_is_sent_again(desk):
    desk.fault("sbatch", Fault.TIMEOUT_ACCEPTED)
    desk.fault("squeue", *[Fault.EMPTY] * 4)
    desk.cluster.dbd_down = True
    assert desk.submit().adopted, "two empty answers after the error are not believed"
    assert desk.sent == 1


def test_an_unclear_submission_that_cannot_be_searched_stays_unclear(desk):
    desk.fault("sbatch", Fault.TIMEOUT_ACCEPTED)
    desk.fault("squeue", *[Fault.EMPTY, *[Fault.TIMEOUT] * 30])
    with pytest.raises(SubmissionUnknownError, match="goes on searching"):
        desk.submit()
    assert desk.steps == [Step.UNKNOWN]
    desk.cluster.faults.clear()
    assert desk.submit().adopted
    assert desk.sent == 1


def test_sending_twice_is_the_limit_of_one_call(desk):
    desk.fault("sbatch", Fault.TIMEOUT_LOST, Fault.TIMEOUT_LOST, Fault.TIMEOUT_LOST)
    with pytest.raises(SubmissionUnsentError, match="2 times"):
        desk.submit()
    assert (desk.sent, desk.steps) == (2, [Step.UNSENT, Step.UNSENT])


@pytest.mark.parametrize("fault", [None, *SUBMIT_FAULTS])
def test_killed_at_every_step_there_is_one_job(tmp_path, fault):
    for at in range(1, 200):
        desk = Desk(tmp_path / str(at))
        if fault:
            desk.fault("sbatch", fault)
        guillotine = Guillotine(at)
        with mortal_journal(guillotine), suppress(Killed, SlurmError):
            desk.submit(guillotine.wrap(desk.cluster))
        for _ in range(3):
            try:
                submission = desk.submit()
                break
            except SlurmError:
                continue
        assert len(desk.cluster.jobs) == 1, f"killed at step {at} with {fault}"
        assert submission.target.job_id == desk.cluster.jobs[0].base
        if guillotine.steps < at:
            assert at > 8, "there are more steps than this to be killed at"
            return
    pytest.fail("submitting takes no 200 steps")


def test_a_careless_submitter_is_caught_by_these_tests(tmp_path, monkeypatch):
    """Without the search there are two jobs: the tests above can fail."""
    monkeypatch.setattr(submit_module, "find_jobs", lambda *args: [])
    desk = Desk(tmp_path)
    desk.fault("sbatch", Fault.TIMEOUT_ACCEPTED)
    desk.submit()
    assert len(desk.cluster.jobs) == 2


def test_two_processes_with_a_common_lock_submit_one_job(tmp_path):
    desk = Desk(tmp_path)
    found, barrier = [], threading.Barrier(4)

    def process():
        barrier.wait()
        found.append(desk.submit().target.job_id)

    threads = [threading.Thread(target=process) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.cluster.jobs) == 1
    assert set(found) == {desk.cluster.jobs[0].base}


@pytest.mark.parametrize("stage", ["before", "after"])
def test_without_a_common_lock_the_earliest_job_stays(tmp_path, stage):
    """Another host, whose lock is another file, submits while ours is at its sbatch."""
    desk, other = Desk(tmp_path / "a"), Desk(tmp_path / "b")
    other.cluster, other.key = desk.cluster, desk.key
    desk.plan(Life(wait_s=30))

    class Interrupted:
        def run(self, argv, stdin=None, timeout=30):
            sbatch = "sbatch" in argv
            if sbatch and stage == "before":
                other.submit()
            done = desk.cluster.run(argv, stdin, timeout)
            if sbatch and stage == "after":
                other.submit()
            return done

    submission = desk.submit(Interrupted())
    alive = [job for job in desk.cluster.jobs if job.cancelled is None]
    assert [job.base for job in alive] == [submission.target.job_id]
    assert alive[0] is desk.cluster.jobs[0]
    if stage == "before":
        assert len(submission.duplicates) == 1
        assert JournalFile(desk.paths.journal).read().attempts[-1].duplicates


def test_a_process_killed_before_looking_for_duplicates_looks_when_it_comes_back(tmp_path):
    desk = Desk(tmp_path)
    desk.fault("squeue", Fault.EMPTY, Fault.TIMEOUT)
    assert desk.submit().target.submitted == 0, "its record was not seen"
    again = desk.submit()
    assert again.target.submitted == int(desk.cluster.jobs[0].submitted)


def test_an_intended_resubmission_is_another_job(desk):
    first = desk.submit()
    desk.cluster.clock.sleep(100)
    second = desk.submit(key=desk.key.next())
    assert first.target.job_id != second.target.job_id
    assert desk.submit().target.job_id == first.target.job_id


def test_the_breadcrumb_finds_a_job_that_nobody_else_remembers(tmp_path):
    desk = Desk(tmp_path, accounting=False, min_job_age=5)
    desk.plan(killed("TIMEOUT", run_s=5))
    desk.fault("sbatch", Fault.TIMEOUT_ACCEPTED)
    submission = desk.submit()
    assert submission.detail == "found by breadcrumb"
    crumb = json.loads(desk.paths.job.read_text())
    desk.paths.job.write_text(json.dumps(crumb | {"name": "another-key"}))
    desk.paths.journal.unlink()
    assert not desk.submit().adopted, "a breadcrumb of another key is not followed"


def test_a_damaged_journal_is_not_taken_for_an_empty_one(desk):
    desk.submit()
    desk.paths.journal.write_text("{")
    with pytest.raises(SlurmError, match="squeue --name"):
        desk.submit()


def test_the_journal_replaces_open_attempts_and_keeps_the_others(tmp_path):
    file = JournalFile(tmp_path / "new" / "journal.json")
    intent = file.record(Attempt(key="k", step=Step.INTENT, at=1.0))
    file.record(Attempt(key="other", step=Step.INTENT, at=1.5))
    file.record(replace(intent, step=Step.UNSENT))
    file.record(Attempt(key="k", step=Step.ACCEPTED, at=2.0, job_id=4))
    file.record(Attempt(key="k", step=Step.ACCEPTED, at=2.0, job_id=4, submitted=9))
    journal = file.read()
    assert [(a.key, a.step) for a in journal.attempts] == [
        ("k", Step.UNSENT),
        ("other", Step.INTENT),
        ("k", Step.ACCEPTED),
    ]
    assert journal.settled("k").submitted == 9
    assert journal.settled("other") is None
    assert journal.doubtful("other") is not None


def test_a_clock_that_jumps_does_not_wait_for_ever(desk):
    JournalFile(desk.paths.journal).record(
        Attempt(key=desk.key.name, step=Step.INTENT, at=desk.cluster.clock.now + 86400)
    )
    before = desk.cluster.clock.now
    desk.submit(patience=SubmitPatience(visible_s=60))
    assert desk.cluster.clock.now - before < 120
