"""The Slurm engine on a fake cluster: ``python benchmarks/slurm_engine.py``.

Options: ``--submissions N``, ``--jobs N``. Three measurements; "simulated" ones run on a simulated
clock: they say what the engine does, not how fast this machine is.

- ``submissions`` (simulated): lives of one job each. Every command fails with probability 1/4
  for fifteen minutes; the submitting process is killed at a chosen step (before and after every
  command and every write of the journal in turn), the watching one at random. Counted: jobs beyond
  the first (``duplicates``), jobs that nobody would find again (``orphans``), verdicts that are not
  the truth (``false_verdicts``). ``replaced_unstarted``: jobs that ended in the queue and were
  forgotten while the submitter was dead and slurmdbd down; none of them ran, so the next one is no
  duplicate.
- ``watching`` (simulated): jobs that end at random times, one poller. Lag from the end of a job to
  its verdict, over all jobs, and Slurm commands per second over the whole time. One job in fifty
  loses its node and leaves no exit code: its verdict takes a minute longer (``detect_max_s``).
- ``loop`` (real time): the same number of jobs, squeue printing all of them each round; how long
  the event loop was kept from running, and memory per job (tracemalloc).

Prints progress on stderr and one JSON object as the last line of stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_campaign import Campaign
from tests.fakes.slurm_jobs import FakeClock, Life, Plan, killed
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.evidence import Target
from trainyard.slurm.poller import Poller, PollOptions
from trainyard.slurm.profile import probe
from trainyard.slurm.rounds import Watched
from trainyard.slurm.states import STATES

STEPS = 25
"""Steps at which a submitting process is killed in turn: more than an undisturbed one takes."""
RATE = 0.2
_ENDS = (
    *[Life()] * 46,
    *[Life(end="FAILED", exit_code=1)] * 2,
    Life(end="TIMEOUT", exit_code=143),
    killed("NODE_FAIL"),
)
"""Of fifty jobs one loses its node, wrapper included; Slurm tells the others before it kills."""


def submissions(number: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Live *number* lives with faults and deaths and count what went wrong (simulated time)."""
    totals = {"duplicates": 0, "orphans": 0, "false_verdicts": 0}
    totals |= {"replaced_unstarted": 0, "crashes": 0}
    outcomes: dict[str, int] = {}
    for index in range(number):
        campaign = Campaign(folder, seed + index, kill_submit_at=index % STEPS + 1).run()
        totals["duplicates"] += campaign.duplicates
        totals["replaced_unstarted"] += campaign.replaced
        totals["orphans"] += campaign.orphans
        totals["false_verdicts"] += bool(campaign.problems)
        totals["crashes"] += campaign.crashes
        name = str(campaign.verdict.outcome)
        outcomes[name] = outcomes.get(name, 0) + 1
        for problem in campaign.problems:
            print(f"seed {campaign.seed}: {problem}", file=sys.stderr)
        if index % 100 == 99:  # noqa: PLR2004 - a line now and then
            print(f"{index + 1} submissions: {totals}", file=sys.stderr)
    return {"submissions": number, **totals, "outcomes": outcomes, "clock": "simulated"}


def watch_many(jobs: int, folder: Path, seed: int = 0, min_job_age: float = 300) -> dict[str, Any]:
    """Watch *jobs* that run 1 to 30 minutes until all have their verdict (simulated time)."""
    return asyncio.run(_watch_many(jobs, folder, seed, min_job_age))


async def _watch_many(jobs: int, folder: Path, seed: int, min_job_age: float) -> dict[str, Any]:
    source = random.Random(seed)
    clock = FakeClock()
    cluster = FakeCluster(clock, min_job_age=min_job_age)
    targets = [_job(cluster, folder, index, source) for index in range(jobs)]
    budget = CommandBudget(rate=RATE, burst=3, clock=clock, sleep=clock.sleep)
    profile = probe(SlurmClient(cluster))
    poller = Poller(SlurmClient(cluster, budget=budget), profile, clock=clock, random_source=source)
    began, asked = clock.now, sum(cluster.commands.values())
    verdicts = await _follow(poller, targets, clock)
    commands = sum(cluster.commands.values()) - asked
    truth = {job.base: job for job in cluster.jobs}
    lags = [at - (truth[target.job_id].over_since(at) or at) for target, (_, at) in verdicts]
    wrong = [
        target
        for target, (verdict, _) in verdicts
        if verdict.outcome is not STATES[truth[target.job_id].plan.lives[0].end].outcome
    ]
    silent = [
        lag
        for lag, (target, _) in zip(lags, verdicts, strict=True)
        if truth[target.job_id].plan.lives[0].exit_code is None
    ]
    return {
        "jobs": jobs,
        "detect_p50_s": round(statistics.median(lags), 2),
        "detect_p95_s": round(_p95(lags), 2),
        "detect_max_s": round(max(lags), 2),
        "jobs_without_exit_code": len(silent),
        "commands": commands,
        "commands_per_s": round(commands / (clock.now - began), 4),
        "seconds": round(clock.now - began),
        "wrong_verdicts": len(wrong) + jobs - len(verdicts),
        "clock": "simulated",
    }


def _job(cluster: FakeCluster, folder: Path, index: int, source: random.Random) -> Target:
    from dataclasses import replace

    name = f"job-{index}"
    run_dir = folder / name
    run_dir.mkdir()
    life = replace(source.choice(_ENDS), wait_s=source.uniform(0, 60))
    life = replace(life, run_s=source.uniform(60, 1800))
    cluster.plans[name] = Plan(lives=(life,), run_dir=run_dir)
    done = cluster.run(["sbatch", "--parsable", f"--job-name={name}"])
    return Target(cluster="fake", job_id=int(done.stdout), name=name, run_dir=str(run_dir))


async def _follow(poller: Poller, targets: list[Target], clock: FakeClock) -> list[Any]:
    """Tick through simulated time until every target has its verdict; (target, (verdict, time))."""
    entries = {target: poller._rounds.begin(target) for target in targets}
    poller._watched.update(entries)
    poller._queues.update({target: [asyncio.Queue()] for target in targets})
    found: dict[Target, Any] = {}
    end = clock.now + 6 * 3600
    while poller._watched and clock.now < end:
        pause = await poller.tick()
        for target, entry in entries.items():
            if target not in found and entry.verdict and entry.verdict.is_final:
                found[target] = (entry.verdict, clock.now)
        clock.sleep(pause)
    return list(found.items())


def _p95(values: list[float]) -> float:
    return sorted(values)[max(0, -(-95 * len(values) // 100) - 1)]


def block_the_loop(jobs: int, seconds: float) -> dict[str, Any]:
    """Watch *jobs* in real time, a round every 0.2 s, and say how long the event loop stood."""
    return asyncio.run(_block_the_loop(jobs, seconds))


async def _block_the_loop(jobs: int, seconds: float) -> dict[str, Any]:
    clock = FakeClock()
    cluster = FakeCluster(clock)
    cluster.default_plan = Plan(lives=(Life(run_s=10**7),))
    targets = []
    for index in range(jobs):
        name = f"loop-{index}"
        done = cluster.run(["sbatch", "--parsable", f"--job-name={name}"])
        targets.append(Target(cluster="fake", job_id=int(done.stdout), name=name))
    client = SlurmClient(cluster, budget=CommandBudget(rate=1000, burst=100))
    options = PollOptions(fast_s=0.2, slow_s=0.2)
    poller = Poller(client, probe(SlurmClient(cluster)), options=options)
    watchers = [asyncio.create_task(poller.final(target)) for target in targets]
    await asyncio.sleep(0.5)  # a thousand tasks start: that is not the poller
    lags, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        lags.append(time.monotonic() - before - 0.005)
    rounds = poller.health.rounds
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    await poller.close()
    return {
        "jobs": jobs,
        "rounds": rounds,
        "loop_lag_max_s": round(max(lags), 4),
        "loop_lag_p99_s": round(sorted(lags)[int(len(lags) * 0.99)], 4),
        "clock": "real",
    }


def memory_per_job(jobs: int) -> int:
    """Return the bytes that the engine keeps for each watched, running job."""
    cluster = FakeCluster()
    cluster.default_plan = Plan(lives=(Life(run_s=10**7),))
    for index in range(jobs):
        cluster.run(["sbatch", "--parsable", f"--job-name=memory-{index}"])
    cluster.clock.sleep(10)
    targets = [Target(cluster="fake", job_id=job.base, name=job.name) for job in cluster.jobs]
    poller = Poller(SlurmClient(cluster), probe(SlurmClient(cluster)), clock=cluster.clock)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    watched: dict[Target, Watched] = {target: poller._rounds.begin(target) for target in targets}
    for _ in range(3):
        poller._rounds.round(watched, cluster.clock.now)
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return kept // jobs


def measure(*, number: int = 1000, jobs: int = 1000) -> dict[str, Any]:
    """Return every figure of the issue that the fake cluster can give."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        lived = submissions(number, folder / "runs")
        (folder / "watch").mkdir()
        watching = watch_many(jobs, folder / "watch")
        print(f"watching: {watching}", file=sys.stderr)
        loop = block_the_loop(jobs, 5.0)
    loop["bytes_per_job"] = memory_per_job(jobs)
    print(f"loop: {loop}", file=sys.stderr)
    return {"submissions": lived, "watching": watching, "loop": loop}


def main() -> None:
    """Measure with the numbers of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--submissions", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1000)
    chosen = parser.parse_args()
    print(json.dumps(measure(number=chosen.submissions, jobs=chosen.jobs)))


if __name__ == "__main__":
    main()
