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
from trainyard.slurm import parse
from trainyard.slurm.client import QUERY_ENVIRONMENT
from trainyard.slurm.records import JobRecord

GOLDEN = Path(__file__).parents[2] / "golden" / "slurm"
ACCEPT = "TRAINYARD_ACCEPT=1 pytest tests/trainyard/slurm/test_real_cluster*.py"

# The engine's own commands and formats, so that its parsers can read the copies.
SQUEUE = ("squeue", "--noheader", "--states=all", f"--format={parse.SQUEUE_FORMAT}")
SCONTROL = ("scontrol", "--oneliner", "show", "job")
_SACCT = (
    "sacct", "--noheader", "--parsable", f"--delimiter={parse.FIELD}", "--duplicates",
    "--starttime=now-2days",
)  # fmt: skip
SACCT = (*_SACCT, "--allocations", f"--format={','.join(parse.SACCT_FIELDS)}")
USAGE = (*_SACCT, f"--format={','.join(parse.USAGE_FIELDS)}")
COMMANDS = ("squeue", "scontrol", "sacct", "usage")


@dataclass(frozen=True)
class Answer:
    """One command's whole answer."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Observation:
    """The answers about one job at one moment, as printed; read by the engine's parsers."""

    squeue: Answer
    scontrol: Answer
    sacct: Answer
    usage: Answer

    @property
    def listed(self) -> list[JobRecord]:
        """What squeue lists."""
        return parse.squeue(self.squeue.stdout)

    @property
    def queued(self) -> str:
        """State as squeue names it, empty when squeue does not list the job."""
        return self.listed[0].state if self.listed else ""

    @property
    def reason(self) -> str:
        """Reason as squeue prints it."""
        return self.listed[0].reason

    @property
    def attempts(self) -> list[JobRecord]:
        """What sacct shows, oldest attempt first."""
        return parse.sacct(self.sacct.stdout)

    @property
    def accounted(self) -> list[str]:
        """States of the attempts as sacct names them."""
        return [record.state for record in self.attempts]

    def field(self, name: str) -> str:
        """Value of ``name=`` in the first line of scontrol's answer."""
        return parse.pairs(self.scontrol.stdout.splitlines()[0])[name]


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
        usage=_ask(cluster, (*USAGE, f"--jobs={job}")),
    )


def _ask(cluster: Cluster, argv: tuple[str, ...]) -> Answer:
    done = cluster.run(*QUERY_ENVIRONMENT, *argv, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


def wait_for(cluster: Cluster, job: str, *states: str, seconds: float = 30) -> Observation:
    """Wait until squeue shows *job* in one of *states*, then observe it."""
    deadline = time.monotonic() + seconds
    while True:
        rows = parse.squeue(_ask(cluster, (*SQUEUE, f"--jobs={job}")).stdout)
        if rows and rows[0].state in states:
            return observe(cluster, job)
        assert time.monotonic() < deadline, f"{job} not in {states}: {observe(cluster, job)}"
        time.sleep(0.2)


def wait_accounted(cluster: Cluster, job: str, state: str, seconds: float = 30) -> Observation:
    """Wait until sacct shows *state* and the name for the newest attempt, and its steps ended.

    For a second or so after a short job accounting calls it "allocation".
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = observe(cluster, job)
        ended = state == "RUNNING" or "RUNNING" not in seen.usage.stdout
        named = all(record.name != "allocation" for record in seen.attempts)
        if seen.accounted and seen.accounted[-1] == state and ended and named:
            return seen
        assert time.monotonic() < deadline, f"{job} never accounted {state}: {seen}"
        time.sleep(0.5)


def keep(cluster: Cluster, case: str, seen: Observation) -> None:
    """Compare the observation's fields with the recorded case, or record it.

    Ids, times and durations differ from run to run; which fields are printed, the states and the
    exit codes do not: a Slurm that prints something else shows here, before it breaks a parser.
    """
    folder = GOLDEN / case
    for command in COMMANDS:
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
    if command == "scontrol":
        return sorted({key for line in text.splitlines() for key in parse.pairs(line)})
    if command == "usage":
        return sorted({row.state for row in parse.usage(text)})
    rows = parse.squeue(text) if command == "squeue" else parse.sacct(text)
    return sorted({(row.state, row.exit_code, row.exit_signal) for row in rows}, key=str)


def scrub(cluster: Cluster, text: str) -> str:
    """Remove what tells about the machine: host, paths, user, ports, cluster name."""
    config = cluster.config
    for old, new in (
        (str(config.state), "/state"),
        (config.name, "cluster"),
        (f"{config.user}({os.getuid()})", "trainer(1000)"),
        (f"by {os.getuid()}", "by 1000"),
        (f"{config.user}@", "trainer@"),
        (f"{parse.FIELD}{config.user}{parse.FIELD}", f"{parse.FIELD}trainer{parse.FIELD}"),
    ):
        text = text.replace(old, new)
    text = re.sub(rf"GroupId=\S+\({os.getgid()}\)", "GroupId=trainer(1000)", text)
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", text)
    return re.sub(r"(?<=[:(])\d{4,5}(?=[:)])", "6817", text) if "rror" in text else text
