"""What goes wrong with a command of the fake cluster, and how its answers look then."""

from __future__ import annotations

from enum import Enum, auto

from trainyard.slurm.transport import Completed


class Fault(Enum):
    """What goes wrong with one command."""

    TIMEOUT_ACCEPTED = auto()
    TIMEOUT_LOST = auto()
    LATE = auto()
    GARBAGE_ACCEPTED = auto()
    SOCKET_ACCEPTED = auto()
    UNREACHABLE = auto()
    EMPTY = auto()
    GARBAGE = auto()
    PARTIAL = auto()
    CUT = auto()
    SLOW = auto()
    TIMEOUT = auto()


SUBMIT_FAULTS = tuple(Fault)[:6]
QUERY_FAULTS = tuple(Fault)[5:]
LATE_S = 25.0
SLOW_S = 20.0


def options(arguments: list[str], allowed: str) -> dict[str, str]:
    found = {}
    for word in arguments:
        assert word.startswith("--"), f"unexpected argument {word!r}"
        name, _, value = word[2:].partition("=")
        assert not allowed or name in allowed.split(), f"unknown option {word!r}"
        found[name] = value
    return found


def tasks(text: str) -> list[int]:
    first, last = text.split("%", maxsplit=1)[0].split("-")
    return list(range(int(first), int(last) + 1))


def done(stdout: str) -> Completed:
    return Completed(rc=0, stdout=stdout, stderr="", elapsed=0.01)


def failed(stderr: str) -> Completed:
    return Completed(rc=1, stdout="", stderr=stderr + "\n", elapsed=0.01)


def spoiled(answer: Completed, fault: Fault | None) -> Completed:
    if fault is Fault.EMPTY:
        return done("")
    if fault is Fault.GARBAGE:
        return done("*** system maintenance tonight ***\n")
    if fault is Fault.PARTIAL and answer.stdout:
        return done(answer.stdout[: len(answer.stdout) * 2 // 3])
    if fault is Fault.CUT and answer.stdout.count("\n") > 1:
        lines = answer.stdout.splitlines(keepends=True)
        return done("".join(lines[: len(lines) // 2]))
    return answer


def config_text(accounting: bool, min_job_age: float, preempt_mode: str) -> str:
    return (
        "Configuration data as of 1800000000\n"
        f"AccountingStorageType   = accounting_storage/{'slurmdbd' if accounting else 'none'}\n"
        "ClusterName             = fake\n"
        f"MinJobAge               = {min_job_age:.0f} sec\nMaxArraySize            = 1001\n"
        f"PreemptMode             = {preempt_mode}\nPreemptType             = preempt/qos\n"
        "SLURM_VERSION           = 22.05.8\nMessageTimeout          = 10 sec\n"
    )


def partition_text(name: str, mode: str) -> str:
    return (
        f"PartitionName={name} Default=NO MaxNodes=UNLIMITED MaxTime=1:00:00 "
        f"PreemptMode={mode} State=UP TotalNodes=4\n"
    )
