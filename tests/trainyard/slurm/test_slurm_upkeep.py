"""Cancelling, reconciling and quarantine: what keeps a cluster tidy."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace

import pytest

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_faults import Fault
from tests.fakes.slurm_jobs import Life, Plan
from trainyard.errors import ConfigurationError
from trainyard.slurm.cancel import cancel
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import ControllerUnreachableError
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobIdentity, JobKey
from trainyard.slurm.profile import probe
from trainyard.slurm.quarantine import Quarantine
from trainyard.slurm.reconcile import WaitingTask, reconcile
from trainyard.slurm.states import Outcome
from trainyard.slurm.verdict import Kind, Verdict


class Yard:
    """Jobs of ours, of another installation and of the user on one cluster."""

    def __init__(self, **options):
        self.cluster = FakeCluster(**options)
        self.clock = self.cluster.clock
        self.client = SlurmClient(self.cluster)
        self.profile = probe(self.client)
        self.cluster.default_plan = Plan(lives=(Life(run_s=1000),))

    def add(self, name: str) -> Target:
        done = self.cluster.run(["sbatch", "--parsable", f"--job-name={name}"])
        self.clock.sleep(2)
        return Target(cluster="fake", job_id=int(done.stdout), name=name)

    def ours(self, run: str) -> Target:
        return self.add(JobKey(namespace="here", run_id=run).name)

    def cancel(self, *targets: Target, **options):
        return cancel(self.client, targets, sleep=self.clock.sleep, **options)

    def reconcile(self, *names: str, tasks=None):
        waiting = [WaitingTask(name=name, task=f"dag/run/{name}") for name in names]
        return reconcile(self.client, self.profile, "here", tasks or (lambda: waiting))


@pytest.fixture
def yard() -> Yard:
    return Yard()


# -- cancel


def test_many_jobs_are_cancelled_and_checked_with_two_commands(yard):
    targets = [yard.ours(f"r{index}") for index in range(50)]
    other = yard.ours("left-alone")
    report = yard.cancel(*targets)
    assert report.complete
    assert set(report.gone) == set(targets)
    assert (yard.cluster.commands["scancel"], yard.cluster.commands["squeue"]) == (1, 1)
    assert [job.name for job in yard.cluster.jobs if job.cancelled is None] == [other.name]


def test_a_cancellation_that_did_not_reach_the_job_is_repeated(yard, monkeypatch):
    target = yard.ours("r")
    real, calls = yard.cluster.do_scancel, []

    def second_time(arguments):
        calls.append(arguments)
        return real(arguments) if len(calls) > 1 else real([])

    monkeypatch.setattr(yard.cluster, "do_scancel", second_time)
    assert yard.cancel(target).gone == (target,)
    assert len(calls) == 2


def test_a_job_that_survives_every_try_is_reported(yard, monkeypatch):
    target = yard.ours("r")
    monkeypatch.setattr(
        yard.cluster, "do_scancel", lambda arguments: yard.cluster.run(["id", "-un"])
    )
    report = yard.cancel(target)
    assert (report.alive, report.complete) == ((target,), False)


def test_a_cancellation_that_cannot_be_checked_says_so(yard):
    target = yard.ours("r")
    yard.cluster.faults["squeue"] = deque([Fault.TIMEOUT])
    report = yard.cancel(target)
    assert (report.alive, report.complete) == ((target,), False)
    assert "squeue" in report.error
    assert yard.cancel(target).complete, "asking again is harmless"


def test_a_job_whose_id_nobody_knows_is_cancelled_by_name(yard):
    target = replace(yard.ours("r"), job_id=0)
    assert yard.cancel(target).complete
    assert yard.cluster.jobs[0].cancelled is not None


def test_jobs_that_are_over_or_forgotten_are_gone(yard):
    over, forgotten = yard.ours("a"), Target(cluster="fake", job_id=4711, name="x")
    yard.clock.sleep(1100)
    assert set(yard.cancel(over, forgotten).gone) == {over, forgotten}


def test_one_array_element_is_cancelled_alone(yard):
    yard.cluster.run(["sbatch", "--parsable", "--job-name=a", "--array=0-2"])
    target = Target(cluster="fake", job_id=100, name="a", task=1)
    assert yard.cancel(target).complete
    assert [job.cancelled is not None for job in yard.cluster.jobs] == [False, True, False]


# -- reconcile


def test_jobs_without_task_and_tasks_without_job_are_found(yard):
    known, orphan = yard.ours("known"), yard.ours("orphan")
    yard.add("interactive")
    yard.add(JobKey(namespace="elsewhere", run_id="known").name)
    gone = JobKey(namespace="here", run_id="gone").name
    found = yard.reconcile(known.name, gone)
    assert [one.job_id for one in found.orphans] == [orphan.job_id]
    assert [task.name for task in found.jobless] == [gone]
    assert found.matched == 1
    assert all(job.cancelled is None for job in yard.cluster.jobs), "reconciling changes nothing"
    assert yard.cancel(*found.targets("fake")).complete
    assert yard.reconcile(known.name).orphans == ()


def test_jobs_that_ended_are_no_orphans_and_their_tasks_not_jobless(yard):
    target = yard.ours("a")
    yard.clock.sleep(1100)
    assert yard.reconcile().orphans == ()
    yard.clock.sleep(1000)
    assert not yard.cluster.known()
    assert yard.reconcile(target.name).jobless == (), "accounting still knows it"


def test_a_task_whose_job_only_its_breadcrumb_knows_is_not_jobless(tmp_path):
    yard = Yard(accounting=False)
    name = JobKey(namespace="here", run_id="a").name
    (tmp_path / "job.json").write_text(json.dumps({"job_id": 5, "name": name}))
    task = WaitingTask(name=name, task="t", run_dir=str(tmp_path))
    assert yard.reconcile(tasks=lambda: [task]).jobless == ()
    assert yard.reconcile(tasks=lambda: [replace(task, run_dir="")]).jobless


def test_what_changes_while_slurm_is_asked_is_no_finding(yard):
    target = yard.ours("new")
    answers = iter([[], [WaitingTask(name=target.name, task="t")]])
    assert yard.reconcile(tasks=lambda: next(answers)).orphans == ()
    gone = WaitingTask(name=JobKey(namespace="here", run_id="x").name, task="t")
    answers = iter([[gone], []])
    assert yard.reconcile(tasks=lambda: next(answers)).jobless == ()


def test_the_later_of_two_jobs_with_one_key_is_a_surplus(yard):
    first, second = yard.ours("a"), yard.ours("a")
    (orphan,) = yard.reconcile(first.name).orphans
    assert (orphan.job_id, orphan.duplicate) == (second.job_id, True)


def test_reconciling_needs_an_answer(yard):
    yard.cluster.controller_down = True
    with pytest.raises(ControllerUnreachableError):
        yard.reconcile("x")


# -- quarantine


def failed(nodes: str, outcome: Outcome = Outcome.NODE_FAIL) -> Verdict:
    identity = JobIdentity(cluster="c", job_id=1, submitted=2)
    return Verdict(
        kind=Kind.FINAL, identity=identity, why="", state=outcome.upper(), outcome=outcome,
        nodes=nodes,
    )  # fmt: skip


def test_nodes_are_blamed_only_for_what_is_their_fault(tmp_path):
    store = Quarantine(tmp_path, "c")
    for outcome in set(Outcome) - {Outcome.NODE_FAIL, Outcome.BOOT_FAIL}:
        assert store.blame(failed("n1", outcome)) == ()
    assert [entry.node for entry in store.blame(failed("n[1-2]"))] == ["n1", "n2"]
    assert "NODE_FAIL" in store.active()[0].reason


def test_failures_double_the_time_and_a_release_forgets_them(tmp_path):
    now = [0.0]
    store = Quarantine(tmp_path, "c", hours=1, clock=lambda: now[0])
    lengths = []
    for _ in range(12):
        (entry,) = store.add(["n1"], "test")
        lengths.append((entry.until - entry.since) / 3600)
        now[0] += 60
    assert lengths[:3] == [1, 2, 4]
    assert lengths[-1] == 7 * 24
    store.release(["n1"])
    assert store.active() == ()
    assert store.add(["n1"], "test")[0].failures == 1


def test_quarantine_never_leaves_a_job_without_nodes(tmp_path):
    now = [0.0]
    store = Quarantine(tmp_path, "c", clock=lambda: now[0])
    nodes = [f"n{index}" for index in range(8)]
    for node in nodes:
        now[0] += 1
        store.add([node], "test")
    assert store.exclude(nodes, needed=1) == ("n6", "n7"), "a quarter, the most recent ones"
    assert store.exclude(nodes, needed=7) == ("n7",)
    assert store.exclude(nodes, needed=8) == ()
    assert store.exclude(["n7"], needed=1) == ()
    assert store.exclude(["elsewhere"] * 4, needed=1) == (), "sbatch refuses names it does not know"


def test_a_damaged_quarantine_file_names_the_fix(tmp_path):
    store = Quarantine(tmp_path, "a/../b")
    store.add(["n1"], "test")
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="Remove the file"):
        store.active()
