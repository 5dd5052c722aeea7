"""The engine against real slurmctld, slurmd and slurmdbd: submit, watch, judge, cancel."""

from __future__ import annotations

import time

import pytest

from trainyard.local.slurm import faults
from trainyard.paths import RunPaths
from trainyard.slurm import wrapper
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.cancel import cancel
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobKey
from trainyard.slurm.profile import probe
from trainyard.slurm.rounds import Rounds
from trainyard.slurm.runfiles import SharedRunFiles
from trainyard.slurm.states import Outcome, Taint
from trainyard.slurm.submit import SubmitRequest, Submitter
from trainyard.slurm.transport import LocalTransport
from trainyard.slurm.verdict import Kind, Patience

pytestmark = pytest.mark.slow
# The rules are the same with less patience; a minute of grace for each killed job is not for tests.
PATIENCE = Patience(absence_s=20, exit_file_s=4, success_file_s=10, never_s=3, accounting_s=60)


class Engine:
    """One real cluster, and any number of runs on it."""

    def __init__(self, cluster):
        self.cluster = cluster
        budget = CommandBudget(rate=50, burst=100)
        self.client = SlurmClient(LocalTransport(environment=cluster.env), budget=budget)
        self.profile = probe(self.client)
        self.root = cluster.config.state / "engine"
        self.watched = {}

    def request(self, command: str, *arguments: str) -> SubmitRequest:
        paths = RunPaths(root=self.root, run_id=f"{time.time_ns()}")
        paths.run_dir.mkdir(parents=True)
        script = (
            f"#!/bin/bash\nrun_dir={paths.run_dir}\n{wrapper.FUNCTIONS}\nbegin\nrun {command}\n"
        )
        return SubmitRequest(
            key=JobKey(namespace=str(self.root), run_id=paths.run_id),
            paths=paths,
            script=script,
            arguments=("--ntasks=1", f"--output={paths.run_dir}/out", *arguments),
        )

    def submit(self, command: str, *arguments: str) -> Target:
        submitter = Submitter(self.client, self.profile)
        return submitter.submit(self.request(command, *arguments)).target

    def until(self, target: Target, wanted, limit_s: float = 60):
        """Watch *target* until *wanted* of its verdict is true."""
        rounds = Rounds(self.client, self.profile, SharedRunFiles(), patience=PATIENCE)
        entry = self.watched.setdefault(target, rounds.begin(target))
        watched, end = {target: entry}, time.monotonic() + limit_s
        while time.monotonic() < end:
            rounds.round(watched, time.time())
            verdict = watched[target].verdict
            if wanted(verdict):
                return verdict
            assert not verdict.is_final, verdict
            time.sleep(0.3)
        raise AssertionError(f"after {limit_s} s: {watched[target]}")

    def final(self, target: Target, limit_s: float = 60):
        return self.until(target, lambda verdict: verdict.is_final, limit_s)


@pytest.fixture(params=["slurmdbd", "no slurmdbd"])
def engine(request):
    name = "slurm_cluster_dbd" if request.param == "slurmdbd" else "slurm_cluster"
    return Engine(request.getfixturevalue(name))


@pytest.fixture
def recorded(slurm_cluster_dbd):
    return Engine(slurm_cluster_dbd)


def test_the_probe_knows_the_cluster(engine):
    profile = engine.profile
    assert profile.version[:1] >= (20,)
    assert {partition.name for partition in profile.partitions} >= {"main", "requeued"}
    assert profile.plan.use_sacct == profile.accounting == engine.cluster.config.accounting
    assert profile.accounting_answers == profile.accounting


def test_success_and_failure(engine):
    good, bad = engine.submit("true"), engine.submit("sh -c 'exit 3'")
    verdict = engine.final(good)
    assert (verdict.outcome, verdict.exit_code) == (Outcome.SUCCEEDED, 0)
    assert verdict.taints == ()
    verdict = engine.final(bad)
    assert (verdict.outcome, verdict.exit_code) == (Outcome.FAILED, 3)


def test_a_job_is_submitted_once_by_two_processes(engine):
    request = engine.request("sleep 1")
    first = Submitter(engine.client, engine.profile).submit(request)
    again = Submitter(engine.client, engine.profile).submit(request)
    assert (again.target, again.adopted) == (first.target, True)
    request.paths.journal.unlink()
    found = Submitter(engine.client, engine.profile).submit(request)
    assert (found.target, found.adopted) == (first.target, True), "found by its name"
    assert engine.final(first.target).outcome is Outcome.SUCCEEDED
    assert len(engine.client.squeue(name=request.key.name)) == 1


def test_cancelled_while_running_and_while_waiting(engine):
    running = engine.submit("sleep 300")
    held = engine.submit("sleep 300", "--hold")
    engine.until(running, lambda verdict: verdict.kind is Kind.RUNNING)
    waiting = engine.until(held, lambda verdict: verdict.kind is Kind.WAITING)
    assert "scontrol release" in waiting.fix
    assert not cancel(engine.client, [running, held]).alive
    assert engine.final(running).outcome is Outcome.CANCELLED
    assert engine.final(held).outcome is Outcome.CANCELLED


def test_requeued_jobs_come_back_tainted(engine):
    target = engine.submit("sleep 2")
    engine.until(target, lambda verdict: verdict.kind is Kind.RUNNING)
    engine.cluster.ask("scontrol", "requeue", str(target.job_id))
    engine.cluster.run("scontrol", "update", f"jobid={target.job_id}", "StartTime=now")
    verdict = engine.final(target, 200)
    assert verdict.outcome is Outcome.SUCCEEDED
    assert verdict.taints == (Taint.REQUEUED,)
    assert verdict.identity.restarts == 1
    assert verdict.identity.submitted >= target.submitted


def test_a_dependency_that_can_never_be_satisfied(engine):
    failed = engine.submit("false")
    engine.final(failed)
    target = engine.submit("true", f"--dependency=afterok:{failed.job_id}")
    verdict = engine.until(target, lambda verdict: verdict.kind is Kind.STUCK)
    assert verdict.reason == "DependencyNeverSatisfied"
    assert "run that one again" in verdict.fix
    cancel(engine.client, [target])


def test_an_array_with_one_failing_element(engine):
    script = "sh -c 'test $SLURM_ARRAY_TASK_ID != 2'"
    folders = "run_dir=$run_dir/$SLURM_ARRAY_TASK_ID; mkdir -p $run_dir; "
    request = engine.request(script, "--array=0-3%2")
    text = request.script.replace("\nbegin\n", f"\n{folders}\nbegin\n")
    base = (
        Submitter(engine.client, engine.profile)
        .submit(
            SubmitRequest(
                key=request.key, paths=request.paths, script=text, arguments=request.arguments
            )
        )
        .target
    )
    outcomes = []
    for task in range(4):
        element = Target(
            cluster=base.cluster, job_id=base.job_id, name=base.name, task=task,
            run_dir=f"{base.run_dir}/{task}",
        )  # fmt: skip
        outcomes.append(engine.final(element).outcome)
    assert outcomes == [Outcome.SUCCEEDED] * 2 + [Outcome.FAILED, Outcome.SUCCEEDED]


def test_a_controller_that_restarts_and_is_gone_changes_no_verdict(engine):
    target = engine.submit("sleep 8")
    engine.until(target, lambda verdict: verdict.kind is Kind.RUNNING)
    with faults.controller_gone(engine.cluster):
        gone = engine.until(target, lambda verdict: verdict.kind is Kind.UNKNOWN)
        assert "does not answer" in gone.why
        time.sleep(8)
    assert engine.final(target).outcome is Outcome.SUCCEEDED


def test_slurmdbd_stopped_while_the_job_runs(recorded):
    target = recorded.submit("sleep 2")
    with faults.accounting_gone(recorded.cluster):
        assert recorded.final(target).outcome is Outcome.SUCCEEDED


def test_preempted_and_requeued(recorded):
    low = recorded.submit("sleep 5", "--partition=requeued", "--nodelist=n1", "--exclusive")
    recorded.until(low, lambda verdict: verdict.kind is Kind.RUNNING)
    recorded.submit("sleep 1", "--partition=urgent", "--nodelist=n1", "--exclusive")
    seen = recorded.until(low, lambda verdict: verdict.kind in {Kind.WAITING, Kind.ENDING})
    assert seen.outcome is None
    recorded.until(low, lambda verdict: verdict.kind is Kind.WAITING)
    recorded.cluster.run("scontrol", "update", f"jobid={low.job_id}", "StartTime=now")
    verdict = recorded.final(low, 200)
    assert verdict.outcome is Outcome.SUCCEEDED
    assert Taint.REQUEUED in verdict.taints


def test_preempted_and_cancelled(recorded):
    low = recorded.submit("sleep 300", "--partition=cancelled", "--nodelist=n1", "--exclusive")
    recorded.until(low, lambda verdict: verdict.kind is Kind.RUNNING)
    recorded.submit("sleep 1", "--partition=urgent", "--nodelist=n1", "--exclusive")
    verdict = recorded.final(low)
    assert (verdict.outcome, verdict.resubmit) == (Outcome.PREEMPTED, True)
