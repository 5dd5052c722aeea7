"""The fingerprint of an environment, and what changed between two reports. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from trainer.contract import Measurement, ProbeReport

LEAST_SHARE = 0.05
"""Change of a measurement that is worth a line, as a share of what it was."""
_OF_ONE_NODE = re.compile(r"gpu\d+\.uuid|storage\..*\.size|slurm\.partition\..*")
"""Stable facts that differ between equal nodes, or grow with a cluster."""


def comparable_facts(report: ProbeReport) -> dict[str, str]:
    """Return the facts by name that equal nodes share: value and unit."""
    return {
        fact.name: f"{fact.value} {fact.unit}".strip()
        for fact in report.facts
        if fact.stable and not _OF_ONE_NODE.fullmatch(fact.name)
    }


def fingerprint(report: ProbeReport) -> str:
    """Return the first 16 hex digits of the SHA-256 over the comparable facts.

    Two nodes with the same fingerprint are the same kind of machine with the same software; one
    that changes between nights was changed by somebody. Measurements are no part of it.
    """
    text = json.dumps(comparable_facts(report), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(kw_only=True, slots=True, frozen=True)
class Change:
    """One difference between two reports."""

    name: str
    """Fact, measurement or problem."""
    before: str
    """What it was; empty: it was not there."""
    after: str
    """What it is; empty: it is gone."""
    kind: str
    """``fact``, ``measurement`` or ``problem``."""

    def __str__(self) -> str:
        """Return the change as a line for a person."""
        if not self.before:
            return f"{self.kind} {self.name}: new, {self.after}"
        if not self.after:
            return f"{self.kind} {self.name}: gone, was {self.before}"
        return f"{self.kind} {self.name}: {self.before} -> {self.after}"


def diff(before: ProbeReport, after: ProbeReport) -> list[Change]:
    """Return what changed: stable facts, measurements whose intervals are apart, problems."""
    return [*_facts(before, after), *_measurements(before, after), *_problems(before, after)]


def _facts(before: ProbeReport, after: ProbeReport) -> list[Change]:
    was, now = ({f.name: f for f in report.facts if f.stable} for report in (before, after))
    changes = []
    for name in sorted(was.keys() | now.keys()):
        texts = [
            f"{side[name].value} {side[name].unit}".strip() if name in side else ""
            for side in (was, now)
        ]
        if texts[0] != texts[1]:
            changes.append(Change(name=name, before=texts[0], after=texts[1], kind="fact"))
    return changes


def _measurements(before: ProbeReport, after: ProbeReport) -> list[Change]:
    was = {one.name: one for one in before.measurements if one.valid}
    now = {one.name: one for one in after.measurements if one.valid}
    changes = []
    for name in sorted(was.keys() & now.keys()):
        old, new = was[name], now[name]
        apart = new.low > old.high or new.high < old.low
        share = new.value / old.value - 1 if old.value else 0.0
        if apart and abs(share) >= LEAST_SHARE and old.unit == new.unit:
            texts = (_number(old), f"{_number(new)} ({share:+.0%})")
            changes.append(Change(name=name, before=texts[0], after=texts[1], kind="measurement"))
    return changes


def _number(one: Measurement) -> str:
    return f"{one.value:.4g} {one.unit}"


def _problems(before: ProbeReport, after: ProbeReport) -> list[Change]:
    was = {(one.probe, one.what) for one in before.problems}
    now = {(one.probe, one.what) for one in after.problems}
    gone = [Change(name=p, before=w, after="", kind="problem") for p, w in sorted(was - now)]
    new = [Change(name=p, before="", after=w, kind="problem") for p, w in sorted(now - was)]
    return [*gone, *new]
