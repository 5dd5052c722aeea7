"""Each trouble that other tools have with Slurm: one named test for each row of the table the
engine was built to. In simulated time; test_slurm_figures.py has the figures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_campaign import Campaign
from tests.fakes.slurm_faults import Fault
from tests.fakes.slurm_jobs import Life, Plan, killed
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.complaints import Sent, sbatch_verdict
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobKey
from trainyard.slurm.profile import probe
from trainyard.slurm.quarantine import Quarantine
from trainyard.slurm.rounds import Rounds
from trainyard.slurm.runfiles import SharedRunFiles
from trainyard.slurm.states import Outcome, Taint
from trainyard.slurm.transport import Completed
from trainyard.slurm.verdict import Kind


class Bench:
    """One job on a cluster without random faults, watched round by round."""

    def __init__(self, folder, *lives: Life, partition: str = "main", task=None, **options):
        self.cluster = FakeCluster(**options)
        self.clock = self.cluster.clock
        self.folder = folder
        name = JobKey(namespace="n", run_id="run").name
        plan = Plan(lives=lives or (Life(),), run_dir=folder / "run")
        (folder / "run").mkdir(exist_ok=True)
        self.cluster.plans[name] = plan
        argv = ["sbatch", "--parsable", f"--job-name={name}", f"--partition={partition}"]
        job_id = int(self.cluster.run(argv).stdout)
        self.target = Target(
            cluster="fake", job_id=job_id, name=name, run_dir=str(folder / "run"), task=task
        )
        self.restart()

    def restart(self) -> None:
        budget = CommandBudget(rate=5, burst=20, clock=self.clock, sleep=self.clock.sleep)
        client = SlurmClient(self.cluster, budget=budget)
        self.rounds = Rounds(client, probe(client), SharedRunFiles())
        self.watched = {self.target: self.rounds.begin(self.target)}
        self.cluster.commands.clear()

    def round(self, pause: float = 6.5):
        self.clock.sleep(pause)
        self.rounds.round(self.watched, self.clock.now)
        return self.verdict

    @property
    def verdict(self):
        return self.watched[self.target].verdict

    def until_final(self, limit_s: float = 7200):
        end = self.clock.now + limit_s
        while self.clock.now < end:
            if self.round().is_final:
                return self.verdict
        raise AssertionError(f"no verdict after {limit_s} s: {self.verdict}")

    def fault(self, command: str, *faults: Fault) -> None:
        self.cluster.faults[command] = deque(faults)


# -- what goes wrong elsewhere


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_ACCEPTED, Fault.LATE, Fault.SOCKET_ACCEPTED])
def test_sbatch_times_out_although_the_controller_accepted(tmp_path, fault):
    campaign = Campaign(tmp_path, 1, fault_rate=0.0, lives=(Life(run_s=300),))
    campaign.cluster.faults["sbatch"] = deque([fault])
    campaign.run()
    assert (campaign.duplicates, campaign.cluster.commands["sbatch"]) == (0, 1)
    assert campaign.problems == []


@pytest.mark.parametrize("empty", [1, 2, 3, 60])
def test_an_empty_squeue_answer_is_not_the_end_of_the_job(tmp_path, empty):
    bench = Bench(tmp_path, Life(run_s=2000))
    bench.round()
    bench.fault("squeue", *[Fault.EMPTY] * empty)
    for _ in range(empty):
        assert bench.round().kind is not Kind.FINAL
    assert bench.round().kind is Kind.RUNNING
    assert bench.until_final().outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("accounting", [True, False])
@pytest.mark.parametrize(
    ("life", "outcome", "without"),
    [
        (Life(run_s=20), Outcome.SUCCEEDED, Outcome.SUCCEEDED),
        (Life(run_s=20, end="FAILED", exit_code=2), Outcome.FAILED, Outcome.FAILED),
        (killed("TIMEOUT", run_s=20), Outcome.TIMEOUT, Outcome.LOST),
    ],
)
def test_a_job_that_aged_out_is_neither_completed_nor_waited_for(
    tmp_path, accounting, life, outcome, without
):
    bench = Bench(tmp_path, life, min_job_age=2, accounting=accounting)
    bench.round()
    assert bench.round(60).kind is not Kind.RUNNING
    assert bench.until_final(600).outcome is (outcome if accounting else without)


def test_slurmdbd_down_for_hours_does_not_disturb_jobs(tmp_path):
    bench = Bench(tmp_path, Life(run_s=8 * 3600))
    bench.cluster.dbd_down = True
    bench.restart()
    for _ in range(50):
        assert bench.round(600).kind in {Kind.RUNNING, Kind.FINAL}
        if bench.verdict.is_final:
            break
    assert bench.verdict.outcome is Outcome.SUCCEEDED
    (tmp_path / "other").mkdir()
    bench = Bench(tmp_path / "other", Life(run_s=30), min_job_age=2)
    bench.cluster.dbd_down = True
    bench.round()
    assert bench.until_final(120).outcome is Outcome.SUCCEEDED, "exit code and absence suffice"
    assert bench.cluster.commands["sacct"] <= 2, "a database that is down is not pestered"


@pytest.mark.parametrize("end", ["PREEMPTED", "NODE_FAIL", "REQUEUED"])
def test_preempted_or_requeued_is_not_final_while_squeue_shows_the_job(tmp_path, end):
    bench = Bench(
        tmp_path, killed(end, run_s=20, requeued=True), Life(wait_s=900), preempt_mode="REQUEUE"
    )
    for _ in range(100):
        assert not bench.round().is_final
    verdict = bench.until_final()
    assert verdict.outcome is Outcome.SUCCEEDED
    assert Taint.REQUEUED in verdict.taints
    assert verdict.identity.restarts == 1


def test_a_stale_requeued_in_accounting_does_not_hang(tmp_path):
    bench = Bench(tmp_path, killed("REQUEUED", run_s=20), min_job_age=2)
    bench.cluster.stale_accounting.add(bench.target.name)
    bench.round()
    began = bench.clock.now
    verdict = bench.until_final(1000)
    assert (verdict.outcome, verdict.resubmit) == (Outcome.LOST, True)
    assert 300 <= bench.clock.now - began <= 400, "one fixed deadline of five minutes"


def test_only_accounting_saying_preempted_waits_for_the_deadline_and_a_return_clears_it(tmp_path):
    options = {"preempt_mode": "REQUEUE", "min_job_age": 2}
    bench = Bench(tmp_path, killed("PREEMPTED", run_s=20), **options)
    bench.round()
    for _ in range(30):
        assert not bench.round().is_final
    job = bench.cluster.jobs[0]
    lives = (killed("PREEMPTED", run_s=20, requeued=True), Life(wait_s=600))
    job.plan = replace(job.plan, lives=lives)
    assert bench.round().kind is Kind.WAITING, "it came back"
    assert bench.until_final().outcome is Outcome.SUCCEEDED
    (tmp_path / "other").mkdir()
    bench = Bench(tmp_path / "other", killed("PREEMPTED", run_s=20), **options)
    bench.round()
    verdict = bench.until_final(600)
    assert (verdict.outcome, verdict.resubmit) == (Outcome.PREEMPTED, True)


def test_after_a_requeue_the_last_attempt_counts_in_accounting(tmp_path):
    lives = (killed("NODE_FAIL", run_s=20, requeued=True), Life(wait_s=60, run_s=20))
    bench = Bench(tmp_path, *lives, min_job_age=2)
    bench.clock.sleep(500)
    verdict = bench.until_final(600)
    assert verdict.outcome is Outcome.SUCCEEDED
    assert verdict.taints, "accounting shows the first attempt, too"
    assert any("--duplicates" in argv for argv in bench.cluster.argvs if argv[0] == "sacct")


@pytest.mark.parametrize(
    ("cluster", "partition"), [("CANCEL", "main"), ("REQUEUE", "cancelled"), ("OFF", "cancelled")]
)
def test_with_preempt_mode_cancel_nothing_is_waited_for(tmp_path, cluster, partition):
    life = killed("PREEMPTED", run_s=20)
    bench = Bench(tmp_path, life, preempt_mode=cluster, partition=partition)
    bench.round(22)
    verdict = bench.until_final(90)
    assert (verdict.outcome, verdict.resubmit) == (Outcome.PREEMPTED, True)


def test_a_job_id_that_comes_round_again_is_another_job(tmp_path):
    bench = Bench(tmp_path, Life(run_s=20), min_job_age=2)
    bench.round(5)
    bench.clock.sleep(60)
    bench.cluster.next_id = bench.target.job_id
    bench.cluster.plans["stranger"] = Plan(lives=(Life(run_s=9000, end="FAILED", exit_code=1),))
    bench.cluster.run(["sbatch", "--parsable", "--job-name=stranger"])
    assert bench.until_final(600).outcome is Outcome.SUCCEEDED
    assert len({job.base for job in bench.cluster.jobs}) == 1, "both have the same id"


def test_array_elements_and_het_components_are_told_apart(tmp_path):
    folders = [tmp_path / str(index) for index in range(4)]
    elements = tuple(
        Plan(
            lives=(Life(run_s=30, end="FAILED", exit_code=7) if i == 2 else Life(run_s=30 + i),),
            run_dir=folder,
        )
        for i, folder in enumerate(folders)
    )
    cluster = FakeCluster()
    cluster.plans["array"] = Plan(elements=elements)
    base = int(cluster.run(["sbatch", "--parsable", "--job-name=array", "--array=0-3%2"]).stdout)
    targets = [
        Target(cluster="fake", job_id=base, name="array", task=i, run_dir=str(folder))
        for i, folder in enumerate(folders)
    ]
    rounds = Rounds(SlurmClient(cluster), probe(SlurmClient(cluster)), SharedRunFiles())
    watched = {target: rounds.begin(target) for target in targets}
    cluster.clock.sleep(0.5)
    rounds.round(watched, cluster.clock.now)
    assert {entry.verdict.kind for entry in watched.values()} == {Kind.WAITING}, "a compact id"
    cluster.clock.sleep(100)
    rounds.round(watched, cluster.clock.now)
    outcomes = [watched[target].verdict.outcome for target in targets]
    assert outcomes == [Outcome.SUCCEEDED] * 2 + [Outcome.FAILED, Outcome.SUCCEEDED]

    bench = Bench(tmp_path, Life(run_s=20))
    job = bench.cluster.jobs[0]
    job.plan = replace(job.plan, components=3)
    assert bench.round().kind is Kind.RUNNING
    assert bench.until_final(60).outcome is Outcome.SUCCEEDED


def test_a_restart_of_the_orchestrator_kills_nothing_and_goes_on(tmp_path):
    bench = Bench(tmp_path, Life(run_s=300))
    for _ in range(10):
        bench.round()
        bench.restart()
    assert bench.cluster.jobs[0].cancelled is None
    assert bench.until_final().outcome is Outcome.SUCCEEDED
    assert bench.cluster.commands["scancel"] == 0


def test_a_thousand_cancellations_are_one_command():
    cluster = FakeCluster()
    client = SlurmClient(cluster)
    for index in range(1000):
        cluster.run(["sbatch", "--parsable", f"--job-name=j{index}"])
    client.scancel(str(job.base) for job in cluster.jobs)
    assert cluster.commands["scancel"] == 1
    assert all(job.cancelled is not None for job in cluster.jobs)


def test_a_thousand_jobs_are_one_command_a_round(tmp_path):
    cluster = FakeCluster()
    for index in range(1000):
        cluster.run(["sbatch", "--parsable", f"--job-name=j{index}"])
    targets = [Target(cluster="fake", job_id=job.base, name=job.name) for job in cluster.jobs]
    client = SlurmClient(cluster)
    rounds = Rounds(client, probe(client), SharedRunFiles())
    watched = {target: rounds.begin(target) for target in targets}
    cluster.commands.clear()
    rounds.round(watched, cluster.clock.now)
    assert sum(cluster.commands.values()) == 1
    assert all(entry.verdict.kind is Kind.WAITING for entry in watched.values())


def test_one_bad_node_does_not_eat_every_retry(tmp_path):
    now = [1000.0]
    store = Quarantine(tmp_path, "fake", clock=lambda: now[0])
    bench = Bench(tmp_path, killed("NODE_FAIL", run_s=5))
    bench.round()
    store.blame(bench.until_final())
    nodes = [f"n{i}" for i in range(1, 9)]
    assert store.exclude(nodes, needed=2) == ("n1",)
    assert Quarantine(tmp_path, "other", clock=lambda: now[0]).exclude(nodes, 2) == ()
    now[0] += 13 * 3600
    assert store.exclude(nodes, needed=2) == (), "an entry expires"


@pytest.mark.parametrize(
    "life",
    [
        Life(end="FAILED", exit_code=1),
        Life(end="COMPLETED", exit_code=None),
        Life(end="COMPLETED", exit_code=9),
        Life(end="FAILED", exit_code=0),
        killed("CANCELLED"),
    ],
)
@pytest.mark.parametrize("accounting", [True, False])
@pytest.mark.parametrize("age", [2, 300])
def test_an_aborted_run_is_never_a_success(tmp_path, life, accounting, age):
    bench = Bench(tmp_path, life, accounting=accounting, min_job_age=age)
    bench.round()
    verdict = bench.until_final()
    if not (life.exit_code == 0 and age == 2 and not accounting):
        # With everything forgotten but an exit code of 0, that is all that anybody can know.
        assert verdict.outcome is not Outcome.SUCCEEDED


def test_midnight_hides_no_job(tmp_path):
    bench = Bench(tmp_path, killed("TIMEOUT", run_s=5 * 86400), min_job_age=2)
    for _ in range(200):
        if bench.round(3600).is_final:
            break
    assert bench.verdict.outcome is Outcome.TIMEOUT
    asked = [word for argv in bench.cluster.argvs for word in argv if "starttime" in word]
    days = [int(word.removeprefix("--starttime=now-").removesuffix("days")) for word in asked[1:]]
    assert min(days) >= 5 + 2


def test_options_that_a_version_lacks_are_named():
    said = (
        "sbatch: unrecognized option '--gpus-per-node'\nTry \"sbatch --help\" for more information"
    )
    verdict, fix = sbatch_verdict(Completed(rc=1, stdout="", stderr=said, elapsed=0.0))
    assert (verdict, "option" in fix) == (Sent.REFUSED, True)
