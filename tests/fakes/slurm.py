"""A Slurm cluster in simulated time: one method for each command, unknown commands raise.

It shows what no real cluster can be made to show at will: sbatch accepted but timed out, empty and
cut answers, stale accounting, reused ids, daemons that are down for hours.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import groupby

from tests.fakes.slurm_faults import (
    LATE_S,
    SLOW_S,
    Fault,
    config_text,
    done,
    failed,
    options,
    partition_text,
    spoiled,
    tasks,
)
from tests.fakes.slurm_jobs import FakeClock, FakeJob, Plan
from trainyard.slurm.errors import TransportError
from trainyard.slurm.parse import FIELD, ROW, SACCT_FIELDS
from trainyard.slurm.transport import Completed

_CONNECT = "Unable to contact slurm controller (connect failure)"


class FakeCluster:
    """Implements the transport protocol. Times are those of its clock."""

    def __init__(
        self,
        clock: FakeClock | None = None,
        *,
        min_job_age: float = 300.0,
        accounting: bool = True,
        preempt_mode: str = "OFF",
        skew_s: float = 0.0,
    ) -> None:
        self.clock = clock or FakeClock()
        self.min_job_age = min_job_age
        self.accounting = accounting
        self.preempt_mode = preempt_mode
        self.skew_s = skew_s
        self.partitions = {"main": "", "requeued": "REQUEUE", "cancelled": "CANCEL"}
        self.plans: dict[str, Plan] = {}
        self.default_plan = Plan()
        self.jobs: list[FakeJob] = []
        self.late: list[tuple[float, list[str]]] = []
        self.next_id = 100
        self.faults: dict[str, deque[Fault]] = {}
        self.fault_source: Callable[[str], Fault | None] = lambda command: None
        self.controller_down = False
        self.dbd_down = False
        self.stale_accounting: set[str] = set()
        """Names whose accounting stops at the first life, as REQUEUED."""
        self.commands: Counter[str] = Counter()
        self.argvs: list[list[str]] = []

    # -- the transport protocol

    def run(self, argv: Sequence[str], stdin: str | None = None, timeout: float = 30) -> Completed:
        words = list(argv)
        if words[0] == "env":
            words = words[1:]
            while "=" in words[0]:
                words = words[1:]
        command, arguments = words[0].rsplit("/", 1)[-1], words[1:]
        self.commands[command] += 1
        self.argvs.append(words)
        self.advance()
        method = getattr(self, f"do_{command}", None)
        assert method is not None, f"the fake cluster has no command {command!r}"
        queued = self.faults.get(command)
        fault = queued.popleft() if queued else self.fault_source(command)
        if fault is Fault.SLOW:
            self.clock.sleep(SLOW_S)
            self.advance()
        if fault in {Fault.TIMEOUT, Fault.TIMEOUT_LOST}:
            self.clock.sleep(timeout)
            raise TransportError(f"{command} did not end within {timeout} s")
        if command not in {"id", "sacct"} and (self.controller_down or fault is Fault.UNREACHABLE):
            return failed(f"{command}: error: {_CONNECT}")
        if command == "sbatch":
            return self._faulty_sbatch(arguments, fault, timeout)
        return spoiled(method(arguments), fault)

    def advance(self) -> None:
        """Let happen what is due: late submissions, files that wrappers write."""
        due = [entry for entry in self.late if entry[0] <= self.clock.now]
        self.late = [entry for entry in self.late if entry[0] > self.clock.now]
        for _, arguments in due:
            self._accept(arguments)
        for job in self.jobs:
            job.leave_files(self.clock.now)

    def _faulty_sbatch(self, arguments: list[str], fault: Fault | None, timeout: float):
        if fault is Fault.LATE:
            self.late.append((self.clock.now + LATE_S, arguments))
            self.clock.sleep(timeout / 2)
            raise TransportError("sbatch did not end in time")
        answer = self.do_sbatch(arguments)
        if answer.rc != 0:
            return answer
        if fault is Fault.TIMEOUT_ACCEPTED:
            self.clock.sleep(timeout)
            raise TransportError("sbatch did not end in time")
        if fault is Fault.GARBAGE_ACCEPTED:
            return done("Welcome to the cluster!\n")
        if fault is Fault.SOCKET_ACCEPTED:
            return failed(
                "sbatch: error: Batch job submission failed: "
                "Socket timed out on send/recv operation"
            )
        return answer

    # -- commands

    def do_id(self, arguments: list[str]) -> Completed:
        assert arguments == ["-un"]
        return done("ty\n")

    def do_sbatch(self, arguments: list[str]) -> Completed:
        chosen = options(
            arguments,
            "parsable job-name comment partition array exclude dependency hold chdir qos",
        )
        partition = chosen.get("partition", "main")
        if partition not in self.partitions:
            return failed("sbatch: error: Batch job submission failed: Invalid partition name")
        return done(f"{self._accept(arguments)}\n")

    def _accept(self, arguments: list[str]) -> int:
        chosen = options(arguments, "")
        name = chosen["job-name"]
        plan = self.plans.get(name, self.default_plan)
        base = self.next_id
        indices = tasks(chosen["array"]) if "array" in chosen else [None]
        for index, task in enumerate(indices):
            self.jobs.append(
                FakeJob(
                    job_id=self.next_id,
                    base=base,
                    name=name,
                    comment=chosen.get("comment", ""),
                    submitted=float(int(self.clock.now)),
                    plan=plan.elements[index] if plan.elements else plan,
                    partition=chosen.get("partition", "main"),
                    task=task,
                )
            )
            self.next_id += max(1, plan.components)
        return base

    def known(self) -> list[FakeJob]:
        """Jobs the controller remembers now: not those that ended MinJobAge ago."""
        now = self.clock.now
        return [
            job
            for job in self.jobs
            if not job.hidden
            and ((over := job.over_since(now)) is None or now - over < self.min_job_age)
        ]

    def do_squeue(self, arguments: list[str]) -> Completed:
        chosen = options(arguments, "noheader user format states name jobs")
        assert chosen["user"] == "ty"
        jobs = self.known()
        if "states" not in chosen:
            jobs = [job for job in jobs if job.over_since(self.clock.now) is None]
        if "name" in chosen:
            jobs = [job for job in jobs if job.name == chosen["name"]]
        if "jobs" in chosen:
            wanted = chosen["jobs"].split(",")
            if len(wanted) == 1 and not any(str(job.base) == wanted[0] for job in jobs):
                return failed("slurm_load_jobs error: Invalid job id specified")
            jobs = [job for job in jobs if str(job.base) in wanted]
        return done("".join(f"{row}{ROW}\n" for job in _grouped(jobs) for row in self._rows(job)))

    def _rows(self, group: list[FakeJob]) -> list[str]:
        waiting = [job for job in group if self._waits(job)]
        rows = []
        if waiting:
            listed = ",".join(str(job.task) for job in waiting)
            rows.append(self._row(waiting[0], f"{waiting[0].base}_[{listed}%2]"))
        for job in group:
            if self._waits(job):
                continue
            parts = range(job.plan.components)
            labels = [f"{job.job_id}+{part}" for part in parts] if len(parts) > 1 else [job.label()]
            rows += [self._row(job, label) for label in labels]
        return rows

    def _waits(self, job: FakeJob) -> bool:
        return job.task is not None and job.state(self.clock.now)[0] == "PENDING"

    def _row(self, job: FakeJob, label: str) -> str:
        now = self.clock.now
        state, reason = job.state(now)
        _, attempt = job.current(now)
        began = now >= attempt.start
        fields = [label, state, self._time(attempt.submitted)]
        fields += [self._time(attempt.start) if began else "N/A", "N/A"]
        fields += ["n1" if began else "", job.partition, "normal", job.user]
        fields += [reason or "None", job.name, job.comment or "(null)", ""]
        return FIELD.join(fields)

    def _time(self, at: float) -> str:
        return str(int(at + self.skew_s))

    def do_scontrol(self, arguments: list[str]) -> Completed:
        words = [word for word in arguments if word != "--oneliner"]
        if words == ["show", "config"]:
            return done(config_text(self.accounting, self.min_job_age, self.preempt_mode))
        if words == ["show", "partition"]:
            modes = {name: mode or self.preempt_mode for name, mode in self.partitions.items()}
            return done("".join(partition_text(name, mode) for name, mode in modes.items()))
        assert words[:2] == ["show", "job"], arguments
        jobs = [job for job in self.known() if str(job.base) == words[2]]
        if not jobs:
            return failed("slurm_load_jobs error: Invalid job id specified")
        return done("".join(self._shown(job) for job in jobs))

    def _shown(self, job: FakeJob) -> str:
        now = self.clock.now
        state, reason = job.state(now)
        index, attempt = job.current(now)
        array = f"ArrayJobId={job.base} ArrayTaskId={job.task} " if job.task is not None else ""
        began = now >= attempt.start
        code = attempt.life.exit_code or 0 if now >= attempt.end else 0
        return (
            f"JobId={job.job_id} {array}JobName={job.name} "
            f"UserId={job.user}(1000) GroupId=ty(1000) "
            f"JobState={state} Reason={reason or 'None'} Requeue={int(job.plan.requeue)} "
            f"Restarts={index} ExitCode={code}:0 SubmitTime={self._time(attempt.submitted)} "
            f"StartTime={self._time(attempt.start) if began else 'Unknown'} EndTime=Unknown "
            f"Partition={job.partition} NodeList={'n1' if began else ''} Comment={job.comment} \n"
        )

    def do_sacct(self, arguments: list[str]) -> Completed:
        if not self.accounting:
            return failed("Slurm accounting storage is disabled")
        if self.dbd_down:
            return failed("sacct: error: Problem talking to the database: Connection refused")
        if arguments == ["--helpformat"]:
            return done(" ".join(SACCT_FIELDS))
        chosen = options(
            arguments,
            "allocations noheader parsable delimiter duplicates user starttime format name jobs",
        )
        assert re.fullmatch(r"now-\d+days", chosen["starttime"])
        wanted = chosen["jobs"].split(",") if "jobs" in chosen else None
        rows = []
        for job in self.jobs:
            if job.name == chosen.get("name", job.name) and (
                wanted is None or str(job.base) in wanted
            ):
                rows += self._accounted(job)
        return done("".join(rows))

    def _accounted(self, job: FakeJob) -> list[str]:
        now, rows = self.clock.now, []
        for attempt in job.attempts():
            if attempt.submitted > now:
                break
            state = attempt.life.end if now >= attempt.end else job.state(now)[0]
            if job.name in self.stale_accounting:
                state = "REQUEUED"
            began = now >= attempt.start
            fields = [job.label(), state, f"{attempt.life.exit_code or 0}:0"]
            fields += [self._time(attempt.submitted), "Unknown", "Unknown", "n1" if began else ""]
            fields += [job.partition, "normal", job.user, job.name]
            rows.append("".join(f"{field}{FIELD}" for field in fields) + "\n")
            if job.name in self.stale_accounting or not attempt.life.requeued:
                break
        return rows

    def do_sacctmgr(self, arguments: list[str]) -> Completed:
        assert arguments == ["--noheader", "--parsable2", "show", "qos", "format=Name"]
        return done("normal\nurgent\n")

    def do_scancel(self, arguments: list[str]) -> Completed:
        ids = [word for word in arguments if not word.startswith("--")]
        chosen = options([word for word in arguments if word.startswith("--")], "name user signal")
        for job in self.known():
            named = "name" in chosen and job.name == chosen["name"]
            if named or job.label() in ids or str(job.base) in ids:
                job.cancelled = job.cancelled or self.clock.now
        return done("")


def _grouped(jobs: list[FakeJob]) -> list[list[FakeJob]]:
    return [list(group) for _, group in groupby(jobs, key=lambda job: job.base)]
