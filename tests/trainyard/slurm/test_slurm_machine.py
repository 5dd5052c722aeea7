"""Random life cycles, faults and deaths: never a second job, a false verdict, an orphan."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_campaign import LIVES, Guillotine, Killed, mortal_journal
from tests.fakes.slurm_faults import QUERY_FAULTS, SUBMIT_FAULTS
from tests.fakes.slurm_jobs import Plan
from trainyard.paths import RunPaths
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import SlurmError
from trainyard.slurm.identity import JobKey
from trainyard.slurm.profile import probe
from trainyard.slurm.rounds import Rounds
from trainyard.slurm.runfiles import SharedRunFiles
from trainyard.slurm.states import STATES, Outcome
from trainyard.slurm.submit import SubmitRequest, Submitter

RUNS = ("a", "b", "c")


class SlurmMachine(RuleBasedStateMachine):
    """Three runs on one cluster; every rule may be followed by every other."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ty-machine-"))
        self.cluster = FakeCluster(min_job_age=60.0, preempt_mode="REQUEUE")
        self.clock = self.cluster.clock
        self.profile = probe(self.client())
        self.targets = {}
        self.verdicts = {}
        self.fresh()

    def teardown(self):
        shutil.rmtree(self.folder)

    def client(self, transport=None):
        budget = CommandBudget(rate=5, burst=20, clock=self.clock, sleep=self.clock.sleep)
        return SlurmClient(transport or self.cluster, budget=budget)

    def fresh(self):
        """Start a watcher that knows only what is on disk."""
        self.rounds = Rounds(self.client(), self.profile, SharedRunFiles())
        waiting = {run: target for run, target in self.targets.items() if run not in self.verdicts}
        self.watched = {target: self.rounds.begin(target) for target in waiting.values()}

    def key(self, run):
        return JobKey(namespace="machine", run_id=run)

    def mine(self, run):
        return [job for job in self.cluster.jobs if job.name == self.key(run).name]

    @rule(
        run=st.sampled_from(RUNS),
        lives=st.sampled_from(LIVES),
        kill=st.none() | st.integers(1, 20),
        fault=st.none() | st.sampled_from(SUBMIT_FAULTS),
    )
    def submit(self, run, lives, kill, fault):
        paths = RunPaths(root=self.folder, run_id=run)
        self.cluster.plans.setdefault(self.key(run).name, Plan(lives=lives, run_dir=paths.run_dir))
        if fault:
            self.cluster.faults["sbatch"] = deque([fault])
        guillotine = Guillotine(kill)
        client = self.client(guillotine.wrap(self.cluster))
        submitter = Submitter(client, self.profile, clock=self.clock, sleep=self.clock.sleep)
        request = SubmitRequest(key=self.key(run), paths=paths, script="#!/bin/sh\n")
        try:
            with mortal_journal(guillotine):
                target = submitter.submit(request).target
        except (Killed, SlurmError):
            return
        if run not in self.targets:
            self.targets[run] = target
            self.watched[target] = self.rounds.begin(target)

    @rule(seconds=st.sampled_from([1, 10, 60, 400]))
    def time_passes(self, seconds):
        self.clock.sleep(seconds)
        self.cluster.advance()

    @rule(
        command=st.sampled_from(["squeue", "sacct", "scontrol"]),
        faults=st.lists(st.sampled_from(QUERY_FAULTS), min_size=1, max_size=4),
    )
    def queries_will_fail(self, command, faults):
        self.cluster.faults[command] = deque(faults)

    @rule(down=st.booleans())
    def slurmdbd(self, down):
        self.cluster.dbd_down = down

    @rule(down=st.booleans())
    def controller(self, down):
        self.cluster.controller_down = down

    @rule(run=st.sampled_from(RUNS))
    def somebody_cancels(self, run):
        for job in self.mine(run):
            if job.over_since(self.clock.now) is None and job.cancelled is None:
                job.cancelled = self.clock.now

    @rule(
        run=st.sampled_from(RUNS),
        end=st.sampled_from(["PREEMPTED", "NODE_FAIL", "REQUEUED"]),
    )
    def slurm_requeues(self, run, end):
        for job in self.mine(run):
            if job.cancelled is None:
                job.interrupt(self.clock.now, end, requeued=True)

    @rule()
    def the_watcher_dies(self):
        self.fresh()

    @precondition(lambda self: self.watched)
    @rule(rounds=st.integers(1, 30))
    def watch(self, rounds):
        for _ in range(rounds):
            self.clock.sleep(6.5)
            with mock.patch("os.fsync"):
                self.rounds.round(self.watched, self.clock.now)
            for run, target in self.targets.items():
                entry = self.watched.get(target)
                if entry and entry.verdict.is_final:
                    self.check(run, entry.verdict)
                    self.verdicts[run] = entry.verdict
                    del self.watched[target]

    def check(self, run, verdict):
        (job,) = self.mine(run)
        over = job.over_since(self.clock.now)
        last = job.attempts()[-1].life
        assert over is not None, f"{verdict.outcome} while the job lives: {verdict.why}"
        allowed = {STATES[last.end].outcome}
        if last.exit_code is None:
            # slurmdbd may have been down for all the time that anybody would wait for it.
            allowed.add(Outcome.LOST)
        elif last.exit_code:
            allowed.add(Outcome.FAILED)
        assert verdict.outcome in allowed, f"{last}: {verdict.why}"
        assert (verdict.outcome is Outcome.SUCCEEDED) == (last.end == "COMPLETED")

    @invariant()
    def one_job_for_each_run(self):
        for run in RUNS:
            assert len(self.mine(run)) <= 1, f"run {run} has {len(self.mine(run))} jobs"

    @invariant()
    def no_job_without_a_trace_in_the_run_folder(self):
        """An orphan would be a job that the next try could not find again."""
        for run in RUNS:
            if self.mine(run):
                assert RunPaths(root=self.folder, run_id=run).journal.exists()


TestSlurmMachine = SlurmMachine.TestCase
TestSlurmMachine.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
