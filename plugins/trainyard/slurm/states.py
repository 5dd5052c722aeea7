"""Every job state Slurm prints, and what the engine makes of it: the state table, as data.

Names and meanings: squeue(1) and sacct(1), "JOB STATE CODES", and Slurm's job_state_codes page,
versions 20.11 to 25.05. ``docs/slurm-states.md`` is this table with reasons; a test compares them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from trainyard.slurm.errors import GarbageOutputError


class Phase(StrEnum):
    """What a state says about the life of a job."""

    WAITING = "waiting"
    """In the queue: it has not started, or waits to start again."""
    RUNNING = "running"
    """Holds an allocation, even when its processes stand still."""
    ENDING = "ending"
    """On the way out, or between two attempts: the end is not written yet."""
    ENDED = "ended"
    """This attempt is over; whether the job is, depends on requeueing."""


class Outcome(StrEnum):
    """How a job ended, once two sources agree; the last three are about missing agreement."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAIL = "node_fail"
    BOOT_FAIL = "boot_fail"
    PREEMPTED = "preempted"
    REVOKED = "revoked"
    LOST = "lost"
    """No record anywhere, no exit code, after the absence deadline."""
    CONTRADICTED = "contradicted"
    """Slurm and the wrapper's exit code disagree, and go on disagreeing."""


class Taint(StrEnum):
    """Why a measurement of this job must not be compared."""

    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    SUSPENDED = "suspended"
    RESIZED = "resized"


@dataclass(kw_only=True, slots=True, frozen=True)
class StateRule:
    """What one Slurm state means to the engine."""

    code: str
    """Compact code of squeue ``%t``; empty for flags that only scontrol and REST print."""
    phase: Phase
    """What it says about the life of the job."""
    outcome: Outcome | None = None
    """The outcome it claims; None while it claims none."""
    comes_back: bool = False
    """May be followed by another attempt: seen in accounting alone, it waits for a deadline."""
    taint: Taint | None = None
    """What it does to a measurement of the job."""
    meaning: str
    """Why the engine treats it so, in one line."""


def _rule(code: str, phase: Phase, meaning: str, **more: object) -> StateRule:
    return StateRule(code=code, phase=phase, meaning=meaning, **more)  # type: ignore[arg-type]


_W, _R, _E, _X = Phase.WAITING, Phase.RUNNING, Phase.ENDING, Phase.ENDED

STATES: dict[str, StateRule] = {
    "PENDING": _rule("PD", _W, "in the queue; its reason says why"),
    "CONFIGURING": _rule("CF", _R, "has its nodes, which still boot"),
    "RUNNING": _rule("R", _R, "has its allocation"),
    "SUSPENDED": _rule("S", _R, "cores given to another job; continues", taint=Taint.SUSPENDED),
    "STOPPED": _rule("ST", _R, "stopped by a signal; continues", taint=Taint.SUSPENDED),
    "RESIZING": _rule("RS", _R, "about to change size", taint=Taint.RESIZED),
    "SIGNALING": _rule("SI", _R, "is being signalled"),
    "COMPLETING": _rule("CG", _E, "processes or epilog still end; the result is not written"),
    "STAGE_OUT": _rule("SO", _E, "the burst buffer still copies files out"),
    "UPDATE_DB": _rule("", _E, "the record is on its way to the database"),
    "POWER_UP_NODE": _rule("", _R, "its nodes are being switched on"),
    "REQUEUED": _rule(
        "RQ", _E, "will run again; stale in accounting", comes_back=True, taint=Taint.REQUEUED
    ),
    "REQUEUE_FED": _rule(
        "RF", _E, "requeued by the federation", comes_back=True, taint=Taint.REQUEUED
    ),
    "REQUEUE_HOLD": _rule(
        "RH", _W, "requeued and held: somebody must release it", taint=Taint.REQUEUED
    ),
    "SPECIAL_EXIT": _rule(
        "SE", _W, "requeued and held with a mark: somebody must release it", taint=Taint.REQUEUED
    ),
    "RESV_DEL_HOLD": _rule("RD", _W, "held because its reservation was deleted"),
    "COMPLETED": _rule("CD", _X, "ended with exit code 0 everywhere", outcome=Outcome.SUCCEEDED),
    "FAILED": _rule("F", _X, "ended with another exit code", outcome=Outcome.FAILED),
    "CANCELLED": _rule("CA", _X, "cancelled, started or not", outcome=Outcome.CANCELLED),
    "TIMEOUT": _rule("TO", _X, "reached its time limit", outcome=Outcome.TIMEOUT),
    "DEADLINE": _rule("DL", _X, "could not end before its deadline", outcome=Outcome.DEADLINE),
    "OUT_OF_MEMORY": _rule("OOM", _X, "used too much memory", outcome=Outcome.OUT_OF_MEMORY),
    "NODE_FAIL": _rule(
        "NF", _X, "a node died; requeued when allowed", outcome=Outcome.NODE_FAIL, comes_back=True
    ),
    "BOOT_FAIL": _rule(
        "BF", _X, "its nodes did not boot", outcome=Outcome.BOOT_FAIL, comes_back=True
    ),
    "LAUNCH_FAILED": _rule(
        "", _X, "could not be launched on its nodes", outcome=Outcome.BOOT_FAIL, comes_back=True
    ),
    "RECONFIG_FAIL": _rule(
        "", _X, "its nodes could not be configured", outcome=Outcome.BOOT_FAIL, comes_back=True
    ),
    "PREEMPTED": _rule(
        "PR",
        _X,
        "gave way to another job; PreemptMode says what follows",
        outcome=Outcome.PREEMPTED,
        comes_back=True,
        taint=Taint.PREEMPTED,
    ),
    "REVOKED": _rule("RV", _X, "a sibling in the federation runs it", outcome=Outcome.REVOKED),
}
"""Rule of every state, by the long name that ``squeue %T``, sacct and scontrol print."""

_BY_CODE = {rule.code: name for name, rule in STATES.items() if rule.code}
_CANCELLED_BY = re.compile(r"CANCELLED by (\d+)")


def parse_state(text: str) -> tuple[str, int | None]:
    """Return the state's long name and, for ``CANCELLED by 1000``, who cancelled (a user id).

    A ``+`` after a name cut by sacct's column width and compact codes are understood; of several
    names joined by commas (newer versions: base state, then flags) the one that says most about
    where the job is wins. Raises ``GarbageOutputError`` for anything else.
    """
    cancelled = _CANCELLED_BY.fullmatch(text.strip())
    if cancelled:
        return "CANCELLED", int(cancelled[1])
    names = [_name(part) for part in text.strip().split(",")]
    order = (Phase.ENDING, Phase.WAITING, Phase.RUNNING, Phase.ENDED)
    return min(names, key=lambda name: order.index(STATES[name].phase)), None


def _name(text: str) -> str:
    if text in STATES:
        return text
    if text in _BY_CODE:
        return _BY_CODE[text]
    cut = [name for name in STATES if text.endswith("+") and name.startswith(text[:-1])]
    if len(cut) == 1 and len(text) > 3:  # noqa: PLR2004 - shorter would fit by accident
        return cut[0]
    raise GarbageOutputError(
        f"job state {text!r} is none that Slurm prints; known: {', '.join(STATES)}"
    )
