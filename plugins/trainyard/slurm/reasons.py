"""Why a job waits: Slurm's pending reasons, whether waiting helps, and what to do about each.

Names: Slurm's job_reason_codes page, 20.11 to 25.05. Families (``AssocGrp…``) are matched by their
form, exact names first; a reason that is in no row is shown as it is and waited for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Hope(StrEnum):
    """What waiting leads to."""

    WAIT = "wait"
    """It starts when its turn comes."""
    LIMIT = "limit"
    """It starts when jobs of the same user, account or QOS end or a budget refills."""
    BLOCKED = "blocked"
    """It starts when an administrator repairs or opens something."""
    HELD = "held"
    """It starts when somebody releases it."""
    NEVER = "never"
    """It does not start as it was submitted: cancel, change, submit again."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PendingReason:
    """What a pending reason means to whoever waits."""

    name: str
    """Slurm's word."""
    hope: Hope
    """What waiting leads to."""
    fix: str
    """What to do; empty where there is nothing to do but wait."""


_RELEASE = "release it with `scontrol release JOBID`"
_ADMIN = "ask the administrators, or choose another partition"
_TOO_MUCH = "ask for less per job: the limit is of the account or QOS, not of the queue"
_ELSEWHERE = "choose an account, QOS and partition that go together; `sacctmgr show assoc` lists"

_EXACT: dict[str, tuple[Hope, str]] = {
    "None": (Hope.WAIT, ""),
    "Priority": (Hope.WAIT, ""),
    "Resources": (Hope.WAIT, ""),
    "BeginTime": (Hope.WAIT, ""),
    "Dependency": (Hope.WAIT, ""),
    "Prolog": (Hope.WAIT, ""),
    "Cleaning": (Hope.WAIT, ""),
    "Reservation": (Hope.WAIT, ""),
    "FedJobLock": (Hope.WAIT, ""),
    "SchedDefer": (Hope.WAIT, ""),
    "Constraints": (
        Hope.WAIT,
        "nodes with these features are busy or down; ask for fewer features",
    ),
    "Licenses": (Hope.LIMIT, ""),
    "JobArrayTaskLimit": (Hope.LIMIT, "raise %N of the array to run more elements at once"),
    "AccountingPolicy": (Hope.LIMIT, "a limit of account or QOS is met; `sacctmgr show assoc`"),
    "QOSUsageThreshold": (Hope.LIMIT, "usage is above the QOS threshold; choose another QOS"),
    "JobHeldUser": (Hope.HELD, _RELEASE),
    "JobHeldAdmin": (Hope.HELD, "an administrator holds it: ask why, they release it"),
    "JobHoldMaxRequeue": (Hope.HELD, f"it was requeued too often: read its log, then {_RELEASE}"),
    "ReservationDeleted": (Hope.HELD, "its reservation is gone: cancel it and submit without one"),
    "NodeDown": (Hope.BLOCKED, _ADMIN),
    "PartitionDown": (Hope.BLOCKED, _ADMIN),
    "PartitionInactive": (Hope.BLOCKED, _ADMIN),
    "FrontEndDown": (Hope.BLOCKED, _ADMIN),
    "SystemFailure": (Hope.BLOCKED, _ADMIN),
    "InactiveLimit": (Hope.BLOCKED, _ADMIN),
    "ReqNodeNotAvail": (Hope.BLOCKED, "nodes it asks for are down, drained or reserved: drop them"),
    "PartitionNodeLimit": (Hope.NEVER, "ask for a number of nodes its partition allows"),
    "PartitionTimeLimit": (Hope.NEVER, "lower the time limit to the partition's MaxTime"),
    "PartitionConfig": (
        Hope.NEVER,
        "it breaks a limit of its partition; `scontrol show partition`",
    ),
    "BadConstraints": (
        Hope.NEVER,
        "no node has these features or this size; check `sinfo -o '%f %G'`",
    ),
    "DependencyNeverSatisfied": (
        Hope.NEVER,
        "a job it depends on failed: run that one again first",
    ),
    "DeadLine": (Hope.NEVER, "it cannot end before its --deadline: move the deadline"),
    "InvalidAccount": (Hope.NEVER, _ELSEWHERE),
    "InvalidQOS": (Hope.NEVER, _ELSEWHERE),
    "QOSNotAllowed": (Hope.NEVER, _ELSEWHERE),
    "AccountNotAllowed": (Hope.NEVER, _ELSEWHERE),
    "MaxMemPerLimit": (Hope.NEVER, "ask for less memory per core or node"),
    "AssociationTimeLimit": (Hope.NEVER, "lower the time limit: the account allows less"),
    "QOSTimeLimit": (Hope.NEVER, "lower the time limit: the QOS allows less"),
    "AssociationJobLimit": (Hope.LIMIT, ""),
    "AssociationResourceLimit": (Hope.LIMIT, ""),
    "QOSJobLimit": (Hope.LIMIT, ""),
    "QOSResourceLimit": (Hope.LIMIT, ""),
}

_FAMILIES: tuple[tuple[re.Pattern[str], Hope, str], ...] = (
    (re.compile(r".*[Hh]eld.*"), Hope.HELD, f"read its log for the cause, then {_RELEASE}"),
    (
        re.compile(r"(AssocGrp|QOSGrp).*Minutes.*"),
        Hope.LIMIT,
        "the budget of account or QOS is spent: choose another one or wait until it refills",
    ),
    (re.compile(r"(AssocGrp|QOSGrp).*"), Hope.LIMIT, ""),
    (re.compile(r"(AssocMax|QOSMax).*(Submit|Jobs).*"), Hope.LIMIT, ""),
    (re.compile(r"QOSMax.*PerUser.*|Max.*PerAccount"), Hope.LIMIT, ""),
    (re.compile(r"(AssocMax|QOSMax).*(PerJob|PerNode).*"), Hope.NEVER, _TOO_MUCH),
    (re.compile(r"QOSMin.*"), Hope.NEVER, "ask for more: the QOS is for larger jobs"),
    (re.compile(r"BurstBuffer(Resources|StageIn)"), Hope.WAIT, ""),
    (re.compile(r"BurstBufferOperation"), Hope.BLOCKED, "its burst buffer failed: ask why"),
    (re.compile(r"Power.*|Nodes_required.*"), Hope.WAIT, ""),
)


def pending_reason(text: str) -> PendingReason:
    """Return what the reason *text* of a waiting job means; details after a comma are dropped."""
    name = text.split(",", 1)[0].strip("() ") or "None"
    if name in _EXACT:
        hope, fix = _EXACT[name]
        return PendingReason(name=name, hope=hope, fix=fix)
    for pattern, hope, fix in _FAMILIES:
        if pattern.fullmatch(name):
            return PendingReason(name=name, hope=hope, fix=fix)
    return PendingReason(name=name, hope=Hope.WAIT, fix="")


def known_reasons() -> tuple[str, ...]:
    """Return the reasons with a row of their own."""
    return tuple(_EXACT)
