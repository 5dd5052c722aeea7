"""Verdicts on one node's report: every measurement against its reference, every defect named."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trainer.contract import Measurement, ProbeReport
from trainyard.errors import ConfigurationError
from trainyard.probing.references import Direction, Reference, References, generic


class Judgement(StrEnum):
    """What a measurement means."""

    PASSED = "passed"
    FAILED = "failed"
    EXCUSED = "excused"
    UNREFERENCED = "no reference"
    INVALID = "invalid"
    """The measurement itself may not be compared."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Judged:
    """One measurement of one node, judged."""

    node: str
    """Host name."""
    measurement: Measurement
    """What was measured."""
    verdict: Judgement
    """What it means."""
    why: str
    """The reference, exception or doubt behind it."""
    fix: str = ""
    """What to do; only for failures."""


FIXES = (
    ("memory.", "look for other programs, missing memory modules and a wrong NUMA setting"),
    ("cpu.", "look at the governor, at heat (sensors) and at a CPU quota of the container"),
    ("disk.", "look at the file system's fill level and at who else writes to it"),
    ("loader.", "see memory and cpu first; then whether loader workers get cores"),
    ("gpu.copy", "look at memory clock, ECC errors and row remaps"),
    ("gpu.read", "look at memory clock, ECC errors and row remaps"),
    ("gpu.host_to_device", "look at PCIe width and generation, and at NUMA binding"),
    ("gpu.launch", "look at the host's governor and at other programs on its cores"),
    ("gpu.", "look at clocks, power limit and heat: nvidia-smi -q -d PERFORMANCE,CLOCK,POWER"),
    ("gloo.", "look at the network interface that the site names, and at foreign load"),
    ("nccl.", "look at NVLink and InfiniBand states: nvidia-smi nvlink -s, ibstat"),
    ("mpi.", "look at foreign load, and at which transport MPI chose: ompi_info, UCX_LOG_LEVEL"),
    ("objectstore.", "look at the store's own load and at the network towards it"),
    ("tracking.", "look at the tracking server's own load and at the database behind it"),
    ("results.", "look at the database's own load, its disk and the network towards it"),
    ("container.", "see that the image is on the node already and its disk is not busy"),
)
"""What to look at first, by the beginning of a measurement's generic name."""


def judge(report: ProbeReport, references: References, today: dt.date) -> list[Judged]:
    """Return the verdict on every measurement of *report*.

    A defect is called one only when the whole 95 % interval is on the wrong side of the bound.
    Raises ``ConfigurationError`` when a reference has another unit than the measurement.
    """
    return [_judged(report, one, references, today) for one in report.measurements]


def device_of(report: ProbeReport, name: str) -> str:
    """Return the model of the device that measurement *name* is of."""
    facts = {fact.name: fact.value for fact in report.facts}
    if name.startswith("gpu"):
        return facts.get(f"{name.partition('.')[0]}.model", "")
    return facts.get("cpu.model", "")


def _judged(
    report: ProbeReport, one: Measurement, references: References, today: dt.date
) -> Judged:
    def told(verdict: Judgement, why: str, fix: str = "") -> Judged:
        return Judged(node=report.node, measurement=one, verdict=verdict, why=why, fix=fix)

    reference = references.find(one.name, device_of(report, one.name))
    if reference is not None and reference.unit != one.unit:
        raise ConfigurationError(
            f"reference {reference.name!r} of site {references.site!r} is in "
            f"{reference.unit!r}, the measurement in {one.unit!r}; correct the file, or learn it "
            "anew: python -m trainyard.probing learn"
        )
    if not one.valid:
        return told(Judgement.INVALID, one.why)
    if reference is None:
        return told(Judgement.UNREFERENCED, "learn one from good nights")
    missed = _missed(one, reference)
    if not missed:
        return told(Judgement.PASSED, f"reference {reference.value:.4g} {one.unit}")
    excuse = references.excuse(one.name, report.node, today)
    if excuse is not None:
        return told(Judgement.EXCUSED, f"{missed}; until {excuse.until}: {excuse.reason}")
    return told(Judgement.FAILED, missed, _fix(one.name))


def _missed(one: Measurement, reference: Reference) -> str:
    off = one.value / reference.value - 1
    if reference.direction is Direction.HIGHER and one.high < reference.lower:
        return f"{off:+.0%} from the reference, below {reference.lower:.4g} {one.unit}"
    if reference.direction is Direction.LOWER and one.low > reference.upper:
        return f"{off:+.0%} from the reference, above {reference.upper:.4g} {one.unit}"
    return ""


def _fix(name: str) -> str:
    fitting = [fix for start, fix in FIXES if generic(name).startswith(start)]
    return fitting[0] if fitting else ""


def defects(judged: Sequence[Judged]) -> list[str]:
    """Return one line per defect: node, measurement, how far off, what to do."""
    return [
        f"{one.node}: {one.measurement.name} {one.why}; {one.fix}"
        for one in judged
        if one.verdict is Judgement.FAILED
    ]
