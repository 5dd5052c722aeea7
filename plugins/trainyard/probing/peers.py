"""Nodes that disagree with the others: in a number by robust z, in a fact by majority. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.contract import ProbeReport
from trainyard.probing.fingerprint import comparable_facts

LIMIT = 3.5
"""Modified z beyond which a value is an outlier: Iglewicz and Hoaglin, "How to Detect and Handle
Outliers" (ASQC 1993)."""
LEAST_NODES = 4
"""Of three, one that is far off moves median and deviation too much to be told by z."""
LEAST_SHARE = 0.05
"""Differences below this share of the median are no defect, however much the others agree."""
_MAD_TO_Z = 0.6745  # median absolute deviation of a normal distribution with deviation 1


@dataclass(kw_only=True, slots=True, frozen=True)
class Outlier:
    """A node that is not like the others."""

    node: str
    """Host name."""
    name: str
    """Measurement or fact."""
    what: str
    """How it differs."""


def disagreeing(reports: Sequence[ProbeReport]) -> list[Outlier]:
    """Return what sets single nodes of one site apart; a defect is always the worse side."""
    return [*_numbers(reports), *_facts(reports)]


def _numbers(reports: Sequence[ProbeReport]) -> list[Outlier]:
    values: dict[str, dict[str, float]] = {}
    units: dict[str, str] = {}
    for report in reports:
        for one in report.measurements:
            if one.valid:
                values.setdefault(one.name, {})[report.node] = one.value
                units[one.name] = one.unit
    found = []
    for name, by_node in sorted(values.items()):
        if len(by_node) < LEAST_NODES:
            continue
        middle = statistics.median(by_node.values())
        spread = statistics.median(abs(value - middle) for value in by_node.values())
        for node, value in sorted(by_node.items()):
            worse = value - middle if units[name] == "s" else middle - value
            score = _MAD_TO_Z * worse / max(spread, 1e-9 * abs(middle))
            if score > LIMIT and worse > LEAST_SHARE * abs(middle):
                what = f"{value:.4g} {units[name]}, the others {middle:.4g} (robust z {score:.1f})"
                found.append(Outlier(node=node, name=name, what=what))
    return found


def _facts(reports: Sequence[ProbeReport]) -> list[Outlier]:
    by_node = {report.node: comparable_facts(report) for report in reports}
    names = sorted({name for facts in by_node.values() for name in facts})
    found = []
    for name in names:
        told = {node: facts.get(name, "missing") for node, facts in by_node.items()}
        common, count = Counter(told.values()).most_common(1)[0]
        if not len(told) / 2 < count < len(told):
            continue
        for node, value in sorted(told.items()):
            if value != common:
                what = f"{value}; {count} of {len(told)} nodes: {common}"
                found.append(Outlier(node=node, name=name, what=what))
    return found
