"""What a real Slurm prints about a job, and its scrubbed copies under tests/golden/slurm.

The copies feed the tests of the engine's parsers. Record them again, after a look at what
changed, with ``TRAINYARD_ACCEPT=1 pytest tests/trainyard/slurm/test_real_cluster*.py``.
"""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from trainyard.local.slurm.cluster import Cluster

GOLDEN = Path(__file__).parents[2] / "golden" / "slurm"
ACCEPT = "TRAINYARD_ACCEPT=1 pytest tests/trainyard/slurm/test_real_cluster*.py"

# One line per job or array element; the reason comes last, since it may hold any character.
SQUEUE = ("squeue", "--noheader", "--states=all", "--format=%i|%F|%K|%j|%t|%T|%V|%S|%M|%N|%k|%r")
SCONTROL = ("scontrol", "--oneliner", "show", "job")
SACCT = (
    "sacct", "--duplicates", "--noheader", "--parsable2",
    "--format=JobID,JobIDRaw,JobName,State,ExitCode,DerivedExitCode,Submit,Start,End,ElapsedRaw,"
    "CPUTimeRAW,TotalCPU,MaxRSS,NodeList,AllocTRES,ConsumedEnergyRaw,Comment,Reason",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """One command's whole answer."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Observation:
    """The three answers about one job at one moment."""

    squeue: Answer
    scontrol: Answer
    sacct: Answer

    @property
    def queued(self) -> str:
        """State as squeue names it, empty when squeue does not list the job."""
        lines = self.squeue.stdout.splitlines()
        return lines[0].split("|")[5] if lines else ""

    @property
    def reason(self) -> str:
        """Reason as squeue prints it."""
        return self.squeue.stdout.splitlines()[0].split("|", 11)[11]

    @property
    def accounted(self) -> list[str]:
        """States of the job's attempts as sacct names them, oldest first, steps left out."""
        rows = [line.split("|") for line in self.sacct.stdout.splitlines()]
        return [row[3] for row in rows if "." not in row[0]]

    def field(self, name: str) -> str:
        """Value of ``name=`` in the first line of scontrol's answer."""
        found = re.search(rf"(?:^| ){re.escape(name)}=(\S*)", self.scontrol.stdout)
        assert found, f"scontrol printed no {name}: {self.scontrol}"
        return found[1]


def submit(cluster: Cluster, script: str, *options: str) -> str:
    """Submit the lines of *script* and return the job id."""
    out = cluster.config.state / "out"
    out.mkdir(exist_ok=True)
    argv = ["sbatch", "--parsable", f"--chdir={out}", *options]
    if not any(option.startswith("--output") for option in options):
        argv.append("--output=%j.log")
    return cluster.ask(*argv, stdin=f"#!/bin/bash\n{script}\n").split(";")[0]


def observe(cluster: Cluster, job: str) -> Observation:
    """Ask the three commands about *job* (an id) now."""
    return Observation(
        squeue=_ask(cluster, (*SQUEUE, f"--jobs={job}")),
        scontrol=_ask(cluster, (*SCONTROL, job)),
        sacct=_ask(cluster, (*SACCT, f"--jobs={job}")),
    )


def _ask(cluster: Cluster, argv: tuple[str, ...]) -> Answer:
    done = cluster.run(*argv, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


def wait_for(cluster: Cluster, job: str, *states: str, seconds: float = 30) -> Observation:
    """Wait until squeue shows *job* in one of *states*, then observe it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = _ask(cluster, (*SQUEUE, f"--jobs={job}"))
        lines = answer.stdout.splitlines()
        if lines and lines[0].split("|")[5] in states:
            return observe(cluster, job)
        assert time.monotonic() < deadline, f"{job} not in {states}: {observe(cluster, job)}"
        time.sleep(0.2)


def wait_accounted(cluster: Cluster, job: str, state: str, seconds: float = 30) -> Observation:
    """Wait until sacct shows *state* for the job's newest attempt and its steps have ended."""
    deadline = time.monotonic() + seconds
    while True:
        seen = observe(cluster, job)
        ended = "RUNNING" not in seen.sacct.stdout
        if seen.accounted and seen.accounted[-1].startswith(state) and ended:
            return seen
        assert time.monotonic() < deadline, f"{job} never accounted {state}: {seen}"
        time.sleep(0.5)


def keep(cluster: Cluster, case: str, seen: Observation) -> None:
    """Compare the observation's fields with the recorded case, or record it.

    Ids, times and durations differ from run to run; which fields are printed, the states and the
    exit codes do not: a Slurm that prints something else shows here, before it breaks a parser.
    """
    folder = GOLDEN / case
    for command in ("squeue", "scontrol", "sacct"):
        answer: Answer = getattr(seen, command)
        text = scrub(cluster, answer.stdout)
        problem = scrub(cluster, answer.stderr)
        if os.environ.get("TRAINYARD_ACCEPT"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{command}.txt").write_text(text)
            _keep_problem(folder / f"{command}.stderr.txt", answer.code, problem)
            continue
        recorded = folder / f"{command}.txt"
        assert recorded.is_file(), f"{recorded} is missing; record it: {ACCEPT}"
        assert shape(command, text) == shape(command, recorded.read_text()), (
            f"{case}: {command} prints another shape; if that is right: {ACCEPT}"
        )


def _keep_problem(file: Path, code: int, text: str) -> None:
    if code or text:
        file.write_text(f"exit {code}\n{text}")
    else:
        file.unlink(missing_ok=True)


def shape(command: str, text: str) -> object:
    """Return what must not change between two recordings of one case."""
    lines = text.splitlines()
    if command == "scontrol":
        return sorted({k for line in lines for k in re.findall(r"(?:^| )([A-Z][\w/:]*)=", line)})
    column = {"squeue": 5, "sacct": 3}[command]
    return sorted({(line.count("|"), line.split("|")[column].split(" ")[0]) for line in lines})


def scrub(cluster: Cluster, text: str) -> str:
    """Remove what tells about the machine: host, paths, user, ports, cluster name."""
    config = cluster.config
    for old, new in (
        (str(config.state), "/state"),
        (config.name, "cluster"),
        (f"{config.user}({os.getuid()})", "trainer(1000)"),
        (f"by {os.getuid()}", "by 1000"),
        (f"{config.user}@", "trainer@"),
    ):
        text = text.replace(old, new)
    text = re.sub(rf"GroupId=\S+\({os.getgid()}\)", "GroupId=trainer(1000)", text)
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", text)
    return re.sub(r"(?<=[:(])\d{4,5}(?=[:)])", "6817", text) if "rror" in text else text
