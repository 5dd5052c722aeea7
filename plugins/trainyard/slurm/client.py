"""``SlurmClient``: one method for each Slurm command, typed answers, typed errors.

"Nothing there" is an empty list; "did not answer" is an exception. Nobody else builds an argv for
Slurm or reads what it prints.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from trainyard.slurm import complaints, parse
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.complaints import Sent
from trainyard.slurm.errors import (
    ControllerUnreachableError,
    GarbageOutputError,
    NotSentError,
    SubmissionRefusedError,
    SubmissionUnknownError,
    SubmissionUnsentError,
    TransportError,
)
from trainyard.slurm.records import Accounting, JobRecord, Node, Partition
from trainyard.slurm.transport import Completed, Transport

QUERY_ENVIRONMENT = (
    "env",
    "LC_ALL=C",
    "SLURM_TIME_FORMAT=%s",
    "SLURM_BITSTR_LEN=0",
)
"""In front of queries: times as seconds since 1970, array indices in full."""
CHUNK = 1000
"""Job ids in one command line: 8 kB, far below any limit on arguments."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Submitted:
    """What sbatch answered."""

    job_id: int
    """Id of the job, of the whole array, or of the first het component."""
    cluster: str
    """Cluster name, when sbatch gave one (``--clusters``)."""


class SlurmClient:
    """Asks one cluster through one transport, within one budget. Thread-safe as they are."""

    def __init__(
        self,
        transport: Transport,
        *,
        budget: CommandBudget | None = None,
        timeout_s: float = 30,
        folder: str = "",
    ) -> None:
        """Ask through *transport*; *folder* holds the commands when PATH does not name it."""
        self.transport = transport
        self.budget = budget or CommandBudget(rate=5, burst=20)
        self.timeout_s = timeout_s
        self._folder = f"{folder.rstrip('/')}/" if folder else ""
        self._user = ""

    # -- commands that change something

    def sbatch(self, script: str, arguments: Sequence[str]) -> Submitted:
        """Submit *script*, passed on standard input, with command-line *arguments*.

        Raises ``SubmissionRefusedError`` (no job; change something), ``SubmissionUnsentError`` (no
        job; later may work) or ``SubmissionUnknownError`` (there may be a job: search for it).
        """
        self.budget.acquire()
        argv = [f"{self._folder}sbatch", "--parsable", *arguments]
        try:
            done = self.transport.run(argv, stdin=script, timeout=self.timeout_s)
        except NotSentError as error:
            raise SubmissionUnsentError(f"sbatch: {error}") from error
        except TransportError as error:
            raise SubmissionUnknownError(f"sbatch: {error}") from error
        if done.rc == 0:
            try:
                job_id, cluster = parse.submitted(done.stdout)
            except GarbageOutputError as error:
                raise SubmissionUnknownError(str(error)) from error
            return Submitted(job_id=job_id, cluster=cluster)
        sent, fix = complaints.sbatch_verdict(done)
        text = f"sbatch (exit status {done.rc}): {done.stderr.strip()[-600:]}; {fix}"
        if sent is Sent.REFUSED:
            raise SubmissionRefusedError(text)
        raise (SubmissionUnsentError if sent is Sent.UNSENT else SubmissionUnknownError)(text)

    def scancel(self, jobs: Iterable[str], *, signal: str = "") -> None:
        """Cancel *jobs* (ids such as ``12`` or ``12_3``), a thousand in one command.

        Jobs that have ended or are unknown are no error: what is left is for a query to say.
        """
        options = [f"--signal={signal}"] if signal else []
        for chunk in _chunks(jobs):
            self._cancel([*options, *chunk])

    def scancel_name(self, name: str) -> None:
        """Cancel every job of ours called *name*: also one whose id nobody knows."""
        self._cancel([f"--name={name}", f"--user={self.user()}"])

    def _cancel(self, arguments: Sequence[str]) -> None:
        done = self._run("scancel", arguments)
        harmless = re.compile(r"Invalid job id|already completing or completed|job not found", re.I)
        serious = [
            line for line in done.stderr.splitlines() if line.strip() and not harmless.search(line)
        ]
        if done.rc != 0 and serious:
            told = Completed(rc=done.rc, stdout="", stderr="\n".join(serious), elapsed=done.elapsed)
            error = complaints.query_error("scancel", told)
            if error:
                raise error

    # -- queries

    def user(self) -> str:
        """Return the name of the user whom jobs belong to: asked once, where commands run."""
        if not self._user:
            done = self.transport.run(["id", "-un"], timeout=self.timeout_s)
            name = done.stdout.strip()
            if done.rc != 0 or not re.fullmatch(r"[^\s,]+", name):
                raise GarbageOutputError(f"id -un printed {done.stdout!r}: {done.stderr.strip()}")
            self._user = name
        return self._user

    def squeue(
        self, *, jobs: Collection[int] = (), name: str = "", all_states: bool = True
    ) -> list[JobRecord]:
        """Return what the controller remembers of *jobs*, of the jobs called *name*, or of ours.

        With ``all_states`` also jobs that ended less than MinJobAge ago. Of jobs it has forgotten
        there is no row.
        """
        options = ["--noheader", f"--user={self.user()}", f"--format={parse.SQUEUE_FORMAT}"]
        if all_states:
            options.append("--states=all")
        if name:
            options.append(f"--name={name}")
        if not jobs:
            return self._squeue(options)
        found = []
        for chunk in _chunks(str(job) for job in sorted(jobs)):
            # squeue takes a single unknown id for an error and of several drops the unknown ones;
            # a repeated id makes one behave like several.
            listed = chunk * 2 if len(chunk) == 1 else chunk
            found += self._squeue([*options, f"--jobs={','.join(listed)}"])
        return found

    def _squeue(self, options: Sequence[str]) -> list[JobRecord]:
        done = self._query("squeue", options, none_when_unknown=True)
        return parse.squeue(done.stdout) if done else []

    def show_job(self, job_id: int) -> list[JobRecord]:
        """Return the parts of one job (elements, components), or [] when the controller says no.

        The one query whose "no" is a statement ("Invalid job id specified") and not just silence.
        """
        done = self._query(
            "scontrol", ["--oneliner", "show", "job", str(job_id)], none_when_unknown=True
        )
        if done is None:
            return []
        records = parse.show_job(done.stdout)
        if not records:
            raise GarbageOutputError(
                f"scontrol show job {job_id} ended well and printed no job; asking again"
            )
        return records

    def sacct(
        self, *, jobs: Collection[int] = (), name: str = "", since_days: int = 2
    ) -> list[JobRecord]:
        """Return every attempt of *jobs* or of the jobs called *name* that accounting knows.

        ``--duplicates`` shows the attempts before a requeue and earlier jobs with the same id;
        looking back two days or more keeps midnight from hiding jobs.
        """
        options = ["--allocations", *self._sacct_options(parse.SACCT_FIELDS, since_days)]
        if name:
            done = self._query("sacct", [*options, f"--name={name}"])
            return parse.sacct(done.stdout) if done else []
        found = []
        for chunk in _chunks(str(job) for job in sorted(jobs)):
            done = self._query("sacct", [*options, f"--jobs={','.join(chunk)}"])
            found += parse.sacct(done.stdout) if done else []
        return found

    def usage(self, jobs: Collection[int], *, since_days: int = 2) -> list[Accounting]:
        """Return what *jobs* used, with memory and energy of their steps; needs accounting."""
        found = []
        for chunk in _chunks(str(job) for job in sorted(jobs)):
            options = self._sacct_options(parse.USAGE_FIELDS, since_days)
            done = self._query("sacct", [*options, f"--jobs={','.join(chunk)}"])
            found += parse.usage(done.stdout) if done else []
        return found

    def _sacct_options(self, fields: Sequence[str], since_days: int) -> list[str]:
        return [
            "--noheader",
            "--parsable",
            f"--delimiter={parse.FIELD}",
            "--duplicates",
            f"--user={self.user()}",
            f"--starttime=now-{since_days}days",
            f"--format={','.join(fields)}",
        ]

    def show_config(self) -> dict[str, str]:
        """Return the controller's configuration by key."""
        return parse.show_config(self._answer("scontrol", ["show", "config"]).stdout)

    def show_partitions(self) -> list[Partition]:
        """Return all partitions."""
        done = self._answer("scontrol", ["--oneliner", "show", "partition"])
        return parse.show_partitions(done.stdout)

    def sinfo_nodes(self) -> list[Node]:
        """Return all nodes with their states."""
        options = ["--noheader", "--Node", f"--format={parse.NODE_FORMAT}"]
        return parse.sinfo_nodes(self._answer("sinfo", options).stdout)

    def qos(self) -> tuple[str, ...]:
        """Return the names of all QOS; needs accounting."""
        options = ["--noheader", "--parsable2", "show", "qos", "format=Name"]
        done = self._answer("sacctmgr", options)
        return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())

    def sacct_fields(self) -> frozenset[str]:
        """Return the fields this version's sacct can print; asks no daemon."""
        return frozenset(self._answer("sacct", ["--helpformat"]).stdout.split())

    def _answer(self, command: str, arguments: Sequence[str]) -> Completed:
        done = self._query(command, arguments)
        if done is None or not done.stdout.strip():
            raise GarbageOutputError(f"{command} {' '.join(arguments)} printed nothing")
        return done

    def _query(
        self, command: str, arguments: Sequence[str], *, none_when_unknown: bool = False
    ) -> Completed | None:
        """Run a query; None stands for "no such job" where the caller expects that."""
        done = self._run(command, arguments)
        if none_when_unknown and complaints.no_such_job(done):
            return None
        error = complaints.query_error(command, done)
        if error:
            raise error
        return done

    def _run(self, command: str, arguments: Sequence[str]) -> Completed:
        self.budget.acquire()
        argv = [*QUERY_ENVIRONMENT, f"{self._folder}{command}", *arguments]
        try:
            return self.transport.run(argv, timeout=self.timeout_s)
        except TransportError as error:
            raise ControllerUnreachableError(f"{command}: {error}; asking again") from error


def _chunks(items: Iterable[str]) -> list[list[str]]:
    listed = list(items)
    return [listed[i : i + CHUNK] for i in range(0, len(listed), CHUNK)]
