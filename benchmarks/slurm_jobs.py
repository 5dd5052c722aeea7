"""Real jobs that end when and how they are told: what ``benchmarks/slurm_real.py`` watches."""

from __future__ import annotations

import errno
import os
import pickle
import random
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract import Dataset, Device, RunSpec
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site
from trainyard.slurm.evidence import Target
from trainyard.slurm.options import JobOptions
from trainyard.slurm.site import SlurmSite
from trainyard.slurm.states import Outcome

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr")
POOR = "poor"
"""An account whose budget is one CPU minute."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Kind:
    """How one kind of job ends."""

    name: str
    share: int
    """Jobs of this kind among 200."""
    code: int | None = None
    """Exit code it is told; None: somebody else ends it."""
    outcome: Outcome
    """The right verdict."""
    state: str
    """Slurm's own last word for it, checked in accounting."""


KINDS = (
    Kind(name="success", share=140, code=0, outcome=Outcome.SUCCEEDED, state="COMPLETED"),
    Kind(name="failure", share=25, code=3, outcome=Outcome.FAILED, state="FAILED"),
    Kind(name="cancelled-running", share=15, outcome=Outcome.CANCELLED, state="CANCELLED"),
    Kind(name="cancelled-waiting", share=5, outcome=Outcome.CANCELLED, state="CANCELLED"),
    Kind(name="timeout", share=8, outcome=Outcome.TIMEOUT, state="TIMEOUT"),
    # Its trainer ignores SIGTERM: srun gives up on it.
    Kind(name="timeout-unheard", share=2, outcome=Outcome.TIMEOUT, state="TIMEOUT"),
    # Slurm ends a job whose account has run out of CPU minutes as it ends one out of time.
    Kind(name="out-of-budget", share=5, outcome=Outcome.TIMEOUT, state="TIMEOUT"),
)
LIMITED = tuple(kind for kind in KINDS if kind.name.startswith("timeout"))
"""Those that run into their time limit of a minute, the shortest there is."""


@dataclass(kw_only=True, slots=True)
class Job:
    """One job of the benchmark."""

    kind: Kind
    paths: RunPaths
    submit_s: float = 0.0
    """Seconds of the submission call."""
    target: Target | None = None
    """What is watched, once submitted."""
    told_at: float | None = None
    """When it was told to end."""

    @property
    def job_id(self) -> int:
        """Id that Slurm gave it."""
        assert self.target is not None
        return self.target.job_id


@dataclass(kw_only=True, slots=True)
class Workplace:
    """Folders and programs that the jobs share."""

    folder: Path
    slurm_conf: Path
    jobs: list[Job] = field(default_factory=list)

    @property
    def calls(self) -> Path:
        """One line per Slurm command: who ran it, and which."""
        return self.folder / "calls"

    @property
    def shims(self) -> Path:
        """Folder, for PATH, of programs that note the call and become the real command."""
        return self.folder / "shims"

    @property
    def submitit(self) -> Path:
        """Folder in which submitit looks for results."""
        return self.folder / "submitit"

    def prepare(self, count: int, seed: int = 0) -> None:
        """Write the programs and lay out *count* jobs."""
        self.shims.mkdir(parents=True)
        self.submitit.mkdir()
        for name in COMMANDS:
            text = f'printf "%s {name}\\n" "$WHO" >>{self.calls}; exec /usr/bin/{name} "$@"\n'
            _program(self.shims / name, text)
        results = {0: ("success", None), 3: ("error", "told to fail")}
        for code, result in results.items():
            (self.folder / f"{code}.pkl").write_bytes(pickle.dumps(result))
        _program(self.folder / "python", self._stand_in())
        self.jobs = _laid_out(count, self.folder / "runs", seed)
        for job in self.jobs:
            job.paths.run_dir.mkdir(parents=True)
            os.mkfifo(job.paths.run_dir / "go")
            if job.kind.name == "timeout-unheard":
                (job.paths.run_dir / "stubborn").touch()

    def _stand_in(self) -> str:
        """Return the program in the trainer's place: waits for its exit code, leaves a result.

        The result file is where submitit's own jobs leave theirs, so that submitit, too, sees the
        end of a job that ended by itself without asking Slurm.
        """
        result = f'{self.submitit}/"$SLURM_JOB_ID"_0_result.pkl'
        return (
            "[ ! -e stubborn ] || trap '' TERM\n"
            "read code <go || code=9\n"
            f'cp {self.folder}/"$code".pkl {result}.partial && mv {result}.partial {result}\n'
            'exit "$code"\n'
        )

    def environment(self, who: str) -> dict[str, str]:
        """Return the variables for commands that count as *who*'s."""
        path = f"{self.shims}:{os.environ['PATH']}"
        return {"SLURM_CONF": str(self.slurm_conf), "PATH": path, "WHO": who}

    def counted(self, who: str) -> dict[str, int]:
        """Return how often *who* ran each command so far."""
        counts: dict[str, int] = {}
        if self.calls.exists():
            for line in self.calls.read_text().splitlines():
                caller, command = line.split()
                if caller == who:
                    counts[command] = counts.get(command, 0) + 1
        return counts

    def site(self, job: Job) -> Site:
        """Return where *job* runs."""
        slurm = SlurmSite(
            partition="main",
            slurm_conf=str(self.slurm_conf),
            grace_s=0,
            requeue=False,
            time_limit_min=1 if job.kind in LIMITED else 60,
            account=POOR if job.kind.name == "out-of-budget" else "",
        )
        return Site(
            name="bench",
            launcher=Launcher.SLURM,
            python=str(self.folder / "python"),
            runs_dir=str(self.folder / "runs"),
            data_dir=str(self.folder / "data"),
            cores=64,
            slurm=slurm,
        )

    def launch(self, job: Job) -> tuple[RunSpec, Site, object]:
        """Return spec, site and launch of *job*."""
        spec = RunSpec(
            name=job.kind.name,
            dataset=Dataset.SYNTHETIC,
            device=Device.CPU,
            distributed=False,
            evaluate=False,
            steps=4,
            warmup_steps=2,
            window_steps=2,
            per_rank_batch=8,
            global_batch=8,
        )
        site = self.site(job)
        options = JobOptions(hold=job.kind.name == "cancelled-waiting")
        return spec, site, launch(spec, site, job.paths, options)


def tell(job: Job) -> None:
    """Tell a job that waits for it to end with its exit code; it must have started."""
    fifo = job.paths.run_dir / "go"
    deadline = time.monotonic() + 60
    while True:
        try:
            handle = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            break
    os.write(handle, f"{job.kind.code}\n".encode())
    os.close(handle)


def _laid_out(count: int, root: Path, seed: int) -> list[Job]:
    """Return *count* jobs in random order; those that end by themselves after a minute go last."""
    whole = sum(kind.share for kind in KINDS)
    numbers = {kind: max(1, kind.share * count // whole) for kind in KINDS}
    numbers[KINDS[0]] += count - sum(numbers.values())
    kinds = [kind for kind in KINDS for _ in range(numbers[kind])]
    random.Random(seed).shuffle(kinds)
    kinds.sort(key=lambda kind: kind in LIMITED or kind.name == "out-of-budget")
    return [
        Job(kind=kind, paths=RunPaths(root=root, run_id=f"bench-{index:03}-{kind.name}"))
        for index, kind in enumerate(kinds)
    ]


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
