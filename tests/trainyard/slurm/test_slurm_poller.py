"""One squeue for all, few other commands, no verdict from silence, a loop never blocked."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import replace

import pytest

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_faults import Fault
from tests.fakes.slurm_jobs import Life, Plan, killed
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.evidence import Target
from trainyard.slurm.poller import Poller, PollerRegistry, PollOptions
from trainyard.slurm.profile import probe
from trainyard.slurm.rounds import Round, Rounds
from trainyard.slurm.runfiles import SharedRunFiles
from trainyard.slurm.states import Outcome
from trainyard.slurm.verdict import Kind

QUICK = PollOptions(fast_s=0.01, slow_s=0.02, down_s=0.03)


class Watch:
    """A poller in simulated time: each tick is followed by the pause it asks for."""

    def __init__(self, folder, **options):
        self.folder = folder
        self.cluster = FakeCluster(**options)
        self.clock = self.cluster.clock
        self.profile = probe(SlurmClient(self.cluster))
        self.cluster.commands.clear()
        self.targets: list[Target] = []

    def poller(self, *, options: PollOptions | None = None, rate: float = 0.2) -> Poller:
        budget = CommandBudget(rate=rate, burst=3, clock=self.clock, sleep=self.clock.sleep)
        return Poller(
            SlurmClient(self.cluster, budget=budget),
            self.profile,
            options=options,
            clock=self.clock,
            random_source=random.Random(1),
        )

    def job(self, *lives: Life, **more) -> Target:
        name = f"job-{len(self.targets)}"
        run_dir = self.folder / name
        run_dir.mkdir()
        self.cluster.plans[name] = Plan(lives=lives or (Life(),), run_dir=run_dir, **more)
        done = self.cluster.run(["sbatch", "--parsable", f"--job-name={name}"])
        job_id = int(done.stdout)
        target = Target(cluster="fake", job_id=job_id, name=name, run_dir=str(run_dir))
        self.targets.append(target)
        return target

    async def until_final(self, poller: Poller, limit_s: float = 4000) -> dict[Target, tuple]:
        """Tick until every target has its verdict; return verdict and time of each."""
        entries = {target: poller._rounds.begin(target) for target in self.targets}
        poller._watched.update(entries)
        for target in self.targets:
            poller._queues[target] = [asyncio.Queue()]
        found, end = {}, self.clock.now + limit_s
        while poller._watched and self.clock.now < end:
            self.clock.sleep(await poller.tick())
            for target in set(entries) - set(found):
                if entries[target].verdict and entries[target].verdict.is_final:
                    found[target] = (entries[target].verdict, self.clock.now)
        return found


@pytest.fixture
def watch(tmp_path) -> Watch:
    return Watch(tmp_path)


@pytest.mark.asyncio
async def test_many_jobs_cost_as_many_commands_as_one(watch):
    for _ in range(300):
        watch.job(Life(run_s=100))
    began = watch.clock.now
    found = await watch.until_final(watch.poller())
    assert len(found) == 300
    assert {verdict.outcome for verdict, _ in found.values()} == {Outcome.SUCCEEDED}
    assert watch.cluster.commands["squeue"] <= (watch.clock.now - began) / 5 + 1
    assert set(watch.cluster.commands) <= {"squeue", "id", "sbatch"}


@pytest.mark.asyncio
async def test_vanished_jobs_are_asked_about_in_one_batch(tmp_path):
    watch = Watch(tmp_path, min_job_age=1)
    for _ in range(200):
        watch.job(killed("TIMEOUT", run_s=100))
    found = await watch.until_final(watch.poller())
    assert {verdict.outcome for verdict, _ in found.values()} == {Outcome.TIMEOUT}
    assert watch.cluster.commands["sacct"] <= 6
    assert watch.cluster.commands["scontrol"] <= 12


@pytest.mark.asyncio
async def test_the_budget_holds_whatever_happens(tmp_path):
    watch = Watch(tmp_path, min_job_age=1, accounting=False)
    for _ in range(100):
        watch.job(killed("TIMEOUT", run_s=100))
    watch.job(Life(run_s=900))
    began = watch.clock.now
    await watch.until_final(watch.poller())
    asked = sum(watch.cluster.commands[name] for name in ("squeue", "sacct", "scontrol"))
    assert asked <= 0.2 * (watch.clock.now - began) + 3 + 1


@pytest.mark.asyncio
async def test_while_all_wait_the_poller_asks_less_and_less(watch):
    watch.job(Life(wait_s=3000))
    poller = watch.poller()
    poller._watched[watch.targets[0]] = poller._rounds.begin(watch.targets[0])
    pauses = []
    for _ in range(8):
        pauses.append(await poller.tick())
        watch.clock.sleep(pauses[-1])
    assert pauses[0] < 7.2
    assert 27 <= pauses[-1] <= 33
    watch.clock.sleep(3000)
    assert await poller.tick() < 7.2, "its start is news: it may end soon"


@pytest.mark.asyncio
async def test_an_unreachable_controller_is_asked_less_often_and_decides_nothing(watch):
    watch.job(Life(run_s=60))
    poller = watch.poller()
    target = watch.targets[0]
    poller._watched[target] = poller._rounds.begin(target)
    watch.clock.sleep(await poller.tick())
    watch.cluster.controller_down = True
    pauses = []
    for _ in range(10):
        pauses.append(await poller.tick())
        assert not poller._watched[target].verdict.is_final
        watch.clock.sleep(pauses[-1])
    assert pauses[-1] > 100
    assert "connect failure" in poller.health.unreachable
    watch.cluster.controller_down = False
    await poller.tick()
    assert target not in poller._watched, "it ended meanwhile"
    assert poller.health.unreachable == ""


def test_a_slow_controller_is_asked_less_often(watch):
    poller = watch.poller()
    news = [(None, None)]
    assert poller._next_pause(Round(changed=news, asked_s=0.01)) < 7.2
    assert poller._next_pause(Round(changed=news, asked_s=3.0)) >= 27, "a tenth of the time at most"


@pytest.mark.asyncio
async def test_a_failure_of_one_round_does_not_end_watching(watch, monkeypatch, caplog):
    watch.job()
    poller = watch.poller()
    poller._watched[watch.targets[0]] = poller._rounds.begin(watch.targets[0])
    monkeypatch.setattr(poller._rounds, "round", lambda *args: 1 / 0)
    await poller.tick()
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    await poller.tick()
    assert poller.health.unreachable == ""


# -- real time: the asyncio side


def real(watch: Watch) -> Poller:
    return Poller(
        SlurmClient(watch.cluster, budget=CommandBudget(rate=1000, burst=100)),
        watch.profile,
        options=QUICK,
        clock=watch.clock,
    )


@pytest.mark.asyncio
async def test_a_watcher_sees_each_state_once_and_then_the_end(watch):
    target = watch.job(Life(wait_s=10, run_s=10))
    poller, kinds = real(watch), []

    async def time_passes():
        while True:
            await asyncio.sleep(0.02)
            watch.clock.sleep(1)

    passing = asyncio.create_task(time_passes())
    async for event in poller.watch(target):
        kinds.append(event.verdict.kind)
    passing.cancel()
    assert kinds == [Kind.WAITING, Kind.RUNNING, Kind.FINAL]
    await poller.close()


@pytest.mark.asyncio
async def test_two_watchers_of_one_job_both_hear_of_its_end(watch):
    target = watch.job()
    poller = real(watch)
    both = asyncio.gather(poller.final(target), poller.final(target))
    await asyncio.sleep(0.05)
    watch.clock.sleep(100)
    first, second = await asyncio.wait_for(both, 5)
    assert first.outcome is second.outcome is Outcome.SUCCEEDED
    assert poller.health.watched == 0
    await poller.close()


@pytest.mark.asyncio
async def test_leaving_stops_watching_and_leaves_the_job_alone(watch):
    target = watch.job(Life(run_s=1000))
    poller = real(watch)
    task = asyncio.create_task(poller.final(target))
    await asyncio.sleep(0.05)
    assert poller.health.watched == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert poller.health.watched == 0
    await asyncio.sleep(0.05)
    asked = watch.cluster.commands["squeue"]
    await asyncio.sleep(0.05)
    assert watch.cluster.commands["squeue"] == asked
    assert watch.cluster.commands["scancel"] == 0
    again = asyncio.create_task(poller.final(target))
    watch.clock.sleep(2000)
    assert (await asyncio.wait_for(again, 5)).outcome is Outcome.SUCCEEDED
    await poller.close()


@pytest.mark.asyncio
async def test_one_poller_for_each_cluster_and_loop(watch):
    registry, made = PollerRegistry(), []

    async def make():
        await asyncio.sleep(0)
        made.append(real(watch))
        return made[-1]

    pollers = await asyncio.gather(*(registry.get("c", make) for _ in range(10)))
    assert len(made) == 1
    assert {id(poller) for poller in pollers} == {id(made[0])}
    assert await registry.get("other", make) is not made[0]
    await registry.close()
    assert await registry.get("c", make) is made[-1]
    await registry.close()


@pytest.mark.slow
@pytest.mark.asyncio
async def test_the_event_loop_is_not_blocked_by_a_thousand_jobs(watch):
    for _ in range(1000):
        watch.job(Life(run_s=10**6))
    poller = real(watch)
    tasks = [asyncio.create_task(poller.final(target)) for target in watch.targets]
    lag, end = 0.0, time.monotonic() + 3
    while time.monotonic() < end:
        before = time.monotonic()
        await asyncio.sleep(0.01)
        lag = max(lag, time.monotonic() - before - 0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await poller.close()
    assert poller.health.rounds >= 2
    assert lag < 0.5, "Airflow warns at 0.2 s; the benchmark measures, this only catches blocking"


# -- going on after a restart


def test_a_restarted_watcher_goes_on_with_the_same_deadline(tmp_path):
    watch = Watch(tmp_path, accounting=False)
    target = watch.job(Life(run_s=10**6))

    def rounds() -> Rounds:
        client = SlurmClient(watch.cluster)
        return Rounds(client, watch.profile, SharedRunFiles())

    first = rounds()
    watched = {target: first.begin(target)}
    watch.clock.sleep(5)
    first.round(watched, watch.clock.now)
    watch.cluster.jobs[0].hidden = True
    for _ in range(10):
        watch.clock.sleep(10)
        first.round(watched, watch.clock.now)
    since = watched[target].evidence.absent_since
    second = rounds()
    watched = {target: second.begin(target)}
    assert watched[target].evidence.absent_since == since
    for _ in range(40):
        watch.clock.sleep(10)
        second.round(watched, watch.clock.now)
        if watched[target].verdict.is_final:
            break
    assert watched[target].verdict.outcome is Outcome.LOST
    assert 300 <= watch.clock.now - since <= 330, "five minutes in all, not five after the restart"


def test_notes_of_another_job_or_damaged_ones_are_not_used(tmp_path, caplog):
    watch = Watch(tmp_path)
    target = watch.job()
    files = SharedRunFiles()
    watched = Rounds(SlurmClient(watch.cluster), watch.profile, files).begin(target)
    files.save(watched.evidence)
    assert files.load(target) == watched.evidence
    assert files.load(replace(target, job_id=99)) is None
    (tmp_path / "job-0" / "watch.json").write_text("{")
    assert files.load(target) is None
    assert "anew" in caplog.text
    files.save(replace(watched.evidence, target=replace(target, run_dir=str(tmp_path / "gone"))))
    assert "cannot keep" in caplog.text


def test_half_of_all_jobs_vanishing_is_checked_with_scontrol(watch):
    targets = [watch.job(Life(run_s=10**6)) for _ in range(10)]
    rounds = Rounds(SlurmClient(watch.cluster), watch.profile, SharedRunFiles())
    watched = {target: rounds.begin(target) for target in targets}
    watch.clock.sleep(5)
    assert rounds.round(watched, watch.clock.now).reachable
    for fault in (Fault.EMPTY, Fault.CUT):
        watch.cluster.faults["squeue"] = deque([fault])
        found = rounds.round(watched, watch.clock.now)
        assert not found.reachable
        assert "scontrol still shows job" in found.error
        assert all(entry.evidence.absences == 0 for entry in watched.values())


def test_the_probe_of_vanished_jobs_never_asks_twice_for_nothing(watch):
    """A job whose end was seen is not asked about with scontrol or sacct at all."""
    target = watch.job(Life(run_s=5))
    rounds = Rounds(SlurmClient(watch.cluster), watch.profile, SharedRunFiles())
    watched = {target: rounds.begin(target)}
    watch.clock.sleep(30)
    rounds.round(watched, watch.clock.now)
    assert watched[target].verdict.outcome is Outcome.SUCCEEDED
    assert watch.cluster.commands["scontrol"] == watch.cluster.commands["sacct"] == 0
