"""Whole lives of a job on the fake cluster: submit and watch it, killed at any step, faults all
around; then compare what the engine did and said with what was true. For tests and benchmarks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from unittest import mock

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_faults import QUERY_FAULTS, SUBMIT_FAULTS, Fault
from tests.fakes.slurm_jobs import FakeClock, FakeJob, Life, Plan, killed
from trainyard.files import write_atomically
from trainyard.paths import RunPaths
from trainyard.slurm import journal, submit
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.evidence import Target
from trainyard.slurm.identity import JobKey
from trainyard.slurm.profile import ClusterProfile, probe
from trainyard.slurm.rounds import Rounds
from trainyard.slurm.runfiles import SharedRunFiles
from trainyard.slurm.states import STATES, Outcome
from trainyard.slurm.submit import SubmitRequest, Submitter
from trainyard.slurm.transport import Completed
from trainyard.slurm.verdict import Verdict


class Killed(BaseException):
    """SIGKILL: nothing after it runs, no handler catches it."""


class Guillotine:
    """Counts the steps of a process and kills it before or after the chosen one."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.at is not None and self.steps == self.at:
            raise Killed

    def wrap(self, cluster: FakeCluster) -> MortalTransport:
        return MortalTransport(cluster, self)


@dataclass
class MortalTransport:
    """The cluster's commands, before and after each of which the process may be killed."""

    cluster: FakeCluster
    guillotine: Guillotine

    def run(self, argv: Sequence[str], stdin: str | None = None, timeout: float = 30) -> Completed:
        self.guillotine.step()
        done = self.cluster.run(argv, stdin, timeout)
        self.guillotine.step()
        return done


@contextmanager
def mortal_journal(guillotine: Guillotine) -> Iterator[None]:
    """Let the process be killed before and after each write of the journal."""
    write = write_atomically

    def mortal(path: Path, text: str) -> None:
        guillotine.step()
        write(path, text)
        guillotine.step()

    # Flushing to the disk of this machine is the kernel's work, and slow: left out in simulations.
    with mock.patch.object(journal, "write_atomically", mortal), mock.patch("os.fsync"):
        yield


def random_faults(source: random.Random, rate: float, until: float, clock: FakeClock):
    """Return a fault source: each command fails with probability *rate* until simulated *until*."""

    def fault(command: str) -> Fault | None:
        if clock.now > until or command == "id" or source.random() >= rate:
            return None
        return source.choice(SUBMIT_FAULTS if command == "sbatch" else QUERY_FAULTS)

    return fault


LIVES: tuple[tuple[Life, ...], ...] = (
    (Life(),),
    (Life(run_s=400),),
    (Life(end="FAILED", exit_code=1),),
    (Life(end="FAILED", exit_code=None),),
    (killed("TIMEOUT", run_s=60),),
    (Life(end="TIMEOUT", exit_code=143, run_s=60),),
    (killed("OUT_OF_MEMORY"),),
    (killed("NODE_FAIL", run_s=30),),
    (killed("BOOT_FAIL", run_s=5),),
    (killed("DEADLINE", wait_s=40, started=False),),
    (killed("CANCELLED", wait_s=40, started=False),),
    (Life(end="CANCELLED", exit_code=143, run_s=50),),
    (killed("NODE_FAIL", run_s=30, requeued=True), Life(wait_s=130)),
    (Life(end="REQUEUED", exit_code=143, run_s=30, requeued=True), Life(wait_s=130)),
    (killed("PREEMPTED", run_s=30, requeued=True), Life(wait_s=130, end="FAILED", exit_code=2)),
    (killed("PREEMPTED", run_s=30, requeued=True), killed("CANCELLED", wait_s=60, started=False)),
    (killed("PREEMPTED", run_s=30),),
    (Life(end="PREEMPTED", exit_code=143, run_s=30),),
    (Life(run_s=120, suspended=(20, 60)),),
)
"""Lives drawn from in campaigns."""


@dataclass
class Campaign:
    """One job on one cluster; *seed* decides everything that is left open."""

    folder: Path
    seed: int
    kill_submit_at: int | None = None
    fault_rate: float = 0.25
    lives: tuple[Life, ...] | None = None
    min_job_age: float | None = None
    accounting: bool | None = None
    crashes: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        pick = self.random.choice
        self.clock = FakeClock()
        self.cluster = FakeCluster(
            self.clock,
            min_job_age=self.min_job_age or pick((15.0, 300.0)),
            accounting=pick((True, False)) if self.accounting is None else self.accounting,
            skew_s=pick((0.0, -7200.0, 7200.0)),
        )
        self.paths = RunPaths(root=self.folder, run_id=f"run-{self.seed}")
        self.key = JobKey(namespace=str(self.folder), run_id=self.paths.run_id)
        lives = self.lives or pick(LIVES)
        self.cluster.preempt_mode = "REQUEUE" if len(lives) > 1 else "CANCEL"
        self.cluster.dbd_down = pick((False, False, True))
        self.cluster.plans[self.key.name] = Plan(lives=lives, run_dir=self.paths.run_dir)
        self.paths.run_dir.mkdir(parents=True)
        self.profile: ClusterProfile = probe(self.client(self.cluster))
        until = self.clock.now + 900
        self.cluster.fault_source = random_faults(self.random, self.fault_rate, until, self.clock)

    def client(self, transport: FakeCluster | MortalTransport) -> SlurmClient:
        """A client whose budget is simulated, too."""
        budget = CommandBudget(rate=5, burst=20, clock=self.clock, sleep=self.clock.sleep)
        return SlurmClient(transport, budget=budget)

    def submit(self) -> Target:
        """Submit as Airflow would: again after errors and deaths, each time as a new process."""
        kills = [self.kill_submit_at]
        for _ in range(40):
            guillotine = Guillotine(kills.pop() if kills else None)
            client = self.client(guillotine.wrap(self.cluster))
            submitter = Submitter(client, self.profile, clock=self.clock, sleep=self.clock.sleep)
            request = SubmitRequest(key=self.key, paths=self.paths, script="#!/bin/bash\n")
            try:
                with mortal_journal(guillotine), mock.patch.object(submit.LOG, "disabled", True):
                    return submitter.submit(request).target
            except Killed:
                self.crashes += 1
                self.clock.sleep(self.random.choice((0.0, 5.0, 300.0)))
            except SlurmError:
                self.clock.sleep(30)
        raise AssertionError(f"seed {self.seed}: never submitted")

    def watch(self, target: Target) -> Verdict:
        """Watch as a triggerer would, which is killed now and then and started again."""
        watched: dict = {}
        begin = self.random.randrange(60)
        down = range(begin, begin + self.random.choice((0, 0, 5, 60)))
        for turn in range(2000):
            if not watched or self.random.random() < 0.05:
                self.crashes += bool(watched)
                rounds = Rounds(self.client(self.cluster), self.profile, SharedRunFiles())
                watched = {target: rounds.begin(target)}
            self.clock.sleep(6.5)
            self.cluster.controller_down = down.start <= turn < down.stop
            with mock.patch("os.fsync"), mock.patch("trainyard.slurm.rounds.LOG.disabled", True):
                rounds.round(watched, self.clock.now)
            verdict = watched[target].verdict
            self.check_taints(verdict)
            if verdict.is_final:
                return verdict
        raise AssertionError(f"seed {self.seed}: no verdict after 2000 rounds: {verdict}")

    def check_taints(self, verdict: Verdict) -> None:
        if verdict.identity.restarts > 0 and not verdict.taints:
            self.problems.append("a requeued job without taint")

    def run(self) -> Campaign:
        """Live the whole life and note what was wrong."""
        target = self.submit()
        verdict = self.watch(target)
        self.verdict = verdict
        self.judge(target, verdict)
        return self

    # -- the truth

    @property
    def mine(self) -> list[FakeJob]:
        return [job for job in self.cluster.jobs if job.name == self.key.name]

    @property
    def replaced(self) -> int:
        """Jobs that ended in the queue, were forgotten, and were submitted again: none of them ran.

        When the submitter is killed just then and slurmdbd is down, nobody is left who knows them.
        """
        return sum(
            (ended := job.over_since(later.submitted)) is not None
            and not job.ran(later.submitted)
            and later.submitted - ended >= self.cluster.min_job_age
            for job, later in pairwise(self.mine)
        )

    @property
    def duplicates(self) -> int:
        """Jobs beyond the first, unless all before them are over, forgotten, and never ran."""
        return len(self.mine) - 1 - self.replaced

    @property
    def orphans(self) -> int:
        """Jobs that are not the one watched and may still do something."""
        watched = journal.JournalFile(self.paths.journal).read().settled(self.key.name)
        return sum(
            job.base != watched.job_id and job.over_since(self.clock.now) is None
            for job in self.mine
        )

    def judge(self, target: Target, verdict: Verdict) -> None:
        job = next(job for job in self.mine if job.base == target.job_id)
        if job.over_since(self.clock.now) is None:
            self.problems.append(f"{verdict.outcome} while the job lives")
        if verdict.outcome not in self.allowed(job):
            self.problems.append(f"{verdict.outcome}, but {job.attempts()[-1].life}: {verdict.why}")

    def allowed(self, job: FakeJob) -> set[Outcome]:
        """Outcomes that are true: the real one, and less where nobody who knows is left."""
        life = job.attempts()[-1].life
        truth = STATES[life.end].outcome
        forgetful = not self.cluster.accounting or self.cluster.dbd_down
        found = {truth}
        if forgetful and life.exit_code is None:
            found.add(Outcome.LOST)
        if forgetful and life.exit_code:
            found.add(Outcome.FAILED)
        return found
