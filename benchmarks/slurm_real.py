"""Two hundred real jobs on a real cluster, watched by Trainyard and, beside it, by submitit.

``python benchmarks/slurm_real.py [--jobs N]``. Everything here is real: slurmctld, four slurmd and
slurmdbd on this machine, scripts from ``launch()``, submissions by ``SlurmBackend.start`` (what an
operator calls before it defers), one poller as a triggerer has it. What stands in is the trainer:
a shell that waits until it is told its exit code, so that the ends are known to the millisecond.

Lag runs from a job's end to the watcher's verdict. The end is the time of the exit-code file where
the wrapper could write one, else the end in accounting (whole seconds). Commands are counted by
programs in PATH that note each call, for both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.slurm_jobs import POOR, Workplace, tell
from benchmarks.slurm_truth import plan_mistakes, real_ends, spread, watcher_figures
from trainyard.backends.slurm import SlurmBackend
from trainyard.local.slurm.cluster import Cluster
from trainyard.local.slurm.config import ClusterConfig
from trainyard.slurm.access import Access
from trainyard.slurm.evidence import Target
from trainyard.slurm.poller import Poller
from trainyard.slurm.runjob import target_of
from trainyard.slurm.transport import LocalTransport
from trainyard.slurm.verdict import Verdict

HERE = Path(__file__).resolve().parent
SPREAD_S = 120.0
"""Seconds over which jobs are told to end."""


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def measure(count: int = 200) -> dict[str, Any]:
    """Return the figures of *count* real jobs; the cluster is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ty-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = ClusterConfig(
            state=folder / "cluster",
            nodes=4,
            cpus_per_node=64,
            accounting=True,
            sample_s=0,  # a thousand processes that each read /proc would be the load
            extra=("PriorityCalcPeriod=1",),  # minutes: how soon a spent budget is noticed
        )
        cluster = Cluster(config)
        try:
            cluster.up()
            cluster.ask("sacctmgr", "-i", "add", "account", POOR, "GrpTRESMins=cpu=1")
            cluster.ask("sacctmgr", "-i", "add", "user", cluster.config.user, f"Account={POOR}")
            place = Workplace(folder=folder / "work", slurm_conf=config.conf)
            place.prepare(count)
            return _measure(cluster, place)
        finally:
            cluster.destroy()


def _measure(cluster: Cluster, place: Workplace) -> dict[str, Any]:
    submit_all(place)
    wait_running(cluster, place)
    watched = asyncio.run(watch(cluster, place))
    ends = real_ends(place)
    mistakes = plan_mistakes(place, ends)
    if mistakes:  # then the benchmark itself went wrong: its figures would say nothing
        raise RuntimeError(f"jobs did not end as planned: {mistakes}")
    return {
        "cluster": "real: slurmctld, slurmdbd and 4 slurmd on this machine",
        "slurm": cluster.ask("sinfo", "--version").removeprefix("slurm "),
        "jobs": len(place.jobs),
        "in_flight": watched.in_flight,
        "outcomes": {
            kind: sum(job.kind.name == kind for job in place.jobs)
            for kind in dict.fromkeys(job.kind.name for job in place.jobs)
        },
        "submit": submit_figures(place),
        "trainyard": watcher_figures(place, ends, watched.ours, "trainyard")
        | {"loop_lag_max_s": round(watched.loop_lag_s, 3)},
        "submitit": watcher_figures(place, ends, watched.submitit, "submitit"),
    }


# -- submitting


def submit_all(place: Workplace) -> None:
    """Submit every job as a task does, each with a backend of its own."""
    for number, job in enumerate(place.jobs):
        spec, site, made = place.launch(job)
        backend = SlurmBackend(site, _access(place, "submit"))
        began = time.monotonic()
        backend.start(made, job.paths, spec)
        job.submit_s = time.monotonic() - began
        job.target = target_of(backend.job(job.paths), job.paths, backend.profile.cluster)
        if (number + 1) % 50 == 0:
            say(f"{number + 1} jobs submitted, the last in {job.submit_s:.2f} s")


def _access(place: Workplace, who: str) -> Access:
    environment = place.environment(who)
    return Access(name="bench", transport=lambda: LocalTransport(environment=environment))


def submit_figures(place: Workplace) -> dict[str, Any]:
    """Return how long the call took that ends with a known job."""
    calls = place.counted("submit")
    seconds = [job.submit_s for job in place.jobs]
    return {
        **spread(seconds, "submit_to_deferred"),
        "commands_per_submission": round(sum(calls.values()) / len(place.jobs), 2),
        "what": "SlurmBackend.start until the job id is known and a watch can begin; no Airflow",
    }


def wait_running(cluster: Cluster, place: Workplace) -> None:
    """Wait until every job that is to run has left the queue."""
    deadline = time.monotonic() + 300
    held = sum(job.kind.name == "cancelled-waiting" for job in place.jobs)
    while True:
        waiting = len(cluster.ask("squeue", "-h", "-t", "PD", "-o", "%i").split())
        if waiting <= held:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{waiting} jobs still wait after five minutes")
        time.sleep(1)


# -- watching


@dataclasses.dataclass(kw_only=True, slots=True)
class Watched:
    """What both watchers saw."""

    ours: dict[int, tuple[float, str]]
    """Job id to our time of the verdict and the outcome."""
    submitit: dict[int, tuple[float, str]]
    """The same of submitit."""
    in_flight: int
    """Jobs that Slurm showed as waiting or running when the watch began."""
    loop_lag_s: float
    """Longest time the event loop was kept from running."""


async def watch(cluster: Cluster, place: Workplace) -> Watched:
    """Let both watch while the jobs end one after the other."""
    listed = await asyncio.to_thread(cluster.ask, "squeue", "-h", "-t", "PD,R", "-o", "%i")
    say(f"{len(listed.split())} jobs in flight; both watchers begin")
    beside = await _submitit(place)
    lags: list[float] = []
    heart = asyncio.create_task(_heartbeat(lags))
    ours = asyncio.create_task(_ours(place))
    await asyncio.sleep(5)
    await asyncio.to_thread(_end_jobs, cluster, place)
    verdicts = await asyncio.wait_for(ours, 900)
    say("Trainyard has all verdicts")
    printed, _ = await asyncio.wait_for(beside.communicate(), 1800)
    say("submitit has all verdicts")
    heart.cancel()
    lines = [json.loads(line) for line in printed.decode().splitlines()]
    return Watched(
        ours=verdicts,
        submitit={line["job_id"]: (line["at"], line["verdict"]) for line in lines},
        in_flight=len(listed.split()),
        loop_lag_s=max(lags),
    )


async def _ours(place: Workplace) -> dict[int, tuple[float, str]]:
    access = _access(place, "trainyard")
    backend = SlurmBackend(place.site(place.jobs[0]), access)
    poller = Poller(access.watching_client(), backend.profile, options=access.options())
    found: dict[int, tuple[float, str]] = {}

    async def one(target: Target) -> None:
        verdict: Verdict = await poller.final(target)
        found[target.job_id] = (time.time(), verdict.outcome.value if verdict.outcome else "none")

    await asyncio.gather(*(one(job.target) for job in place.jobs if job.target))
    await poller.close()
    return found


async def _submitit(place: Workplace) -> asyncio.subprocess.Process:
    plan = place.folder / "plan.json"
    plan.write_text(
        json.dumps({"folder": str(place.submitit), "jobs": [job.job_id for job in place.jobs]})
    )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "slurm_submitit.py"),
        str(plan),
        stdout=asyncio.subprocess.PIPE,
        env={"HOME": str(place.folder), **place.environment("submitit")},
    )


async def _heartbeat(lags: list[float]) -> None:
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.02)
        lags.append(time.monotonic() - before - 0.02)


def _end_jobs(cluster: Cluster, place: Workplace) -> None:
    """Tell jobs to end, or cancel them as a stranger would, at random times."""
    source = random.Random(1)
    ended = [job for job in place.jobs if job.kind.code is not None or "cancel" in job.kind.name]
    moments = sorted((source.uniform(0, SPREAD_S), index) for index in range(len(ended)))
    began = time.monotonic()
    for moment, index in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        job = ended[index]
        if job.kind.code is None:
            cluster.ask("scancel", str(job.job_id))
        else:
            tell(job)
        job.told_at = time.time()
    say(f"{len(ended)} jobs told to end; the others end by their limits")


def main() -> None:
    """Measure with the number of the command line."""
    parser = argparse.ArgumentParser(description="Real jobs on a real cluster.")
    parser.add_argument("--jobs", type=int, default=200)
    chosen = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    print(json.dumps(measure(chosen.jobs)))


if __name__ == "__main__":
    main()
