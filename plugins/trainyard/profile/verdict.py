"""What a step is bound by: the class, its evidence, what could be saved, what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainyard.profile.findings import findings_of
from trainyard.profile.result import (
    CLASS_COLUMNS,
    Bound,
    ControlCheck,
    Mode,
    Recoverable,
    Verdict,
)
from trainyard.profile.shares import ratio_over_steps
from trainyard.profile.suggest import suggestions_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.contract import RunSpec
    from trainyard.analysis.statistics import Estimate
    from trainyard.profile.controls import Controls
    from trainyard.profile.model import Array
    from trainyard.profile.result import Finding, RankAnalysis
    from trainyard.profile.stragglers import Stragglers

CLASS_SHARE = 0.10
"""Below this share of the step, input, communication and host bound nothing."""
AGREEMENT = 0.05
"""Profile and control may differ by so much of a step beyond the profile's interval."""
SLOW_SHARE, SLOW_LAST = 0.05, 0.8
"""A rank is slow when the others wait for it more than 5 % of a step, and it is the last at 80 % of
the collectives."""
MOST_RECOVERABLE = 3
NAMES = {
    Bound.COMPUTE: "compute",
    Bound.COMMUNICATION: "communication",
    Bound.INPUT: "input",
    Bound.HOST: "host and launches",
}


def verdict_of(
    ranks: tuple[RankAnalysis, ...],
    stragglers: Stragglers | None,
    controls: Controls | None,
    spec: RunSpec | None,
) -> Verdict:
    """Return the verdict over all *ranks*."""
    shares = _shares(ranks)
    bound = class_of({part: estimate.value for part, estimate in shares.items()})
    slow = slow_rank(ranks, stragglers)
    recoverable = _recoverable(ranks, stragglers, slow)
    checks = _checks(shares, controls)
    per_step = stragglers.matched / len(ranks[0].windows.start) if stragglers else None
    findings = findings_of(ranks, stragglers, slow)
    return Verdict(
        bound=bound,
        headline=_headline(bound, shares, slow, recoverable),
        shares=shares,
        findings=_with_agreement(findings, checks),
        controls=checks,
        controls_bound=_bound_by_controls(controls),
        recoverable=recoverable,
        suggestions=suggestions_for(
            bound, ranks, spec, slow_rank=slow, collectives_per_step=per_step
        ),
        slow_rank=slow,
    )


def class_of(shares: Mapping[Bound, float]) -> Bound:
    """Return the largest of input, communication and host, or compute when all are below 10 %."""
    others = {part: shares[part] for part in (Bound.INPUT, Bound.COMMUNICATION, Bound.HOST)}
    largest = max(others, key=lambda part: others[part])
    return largest if others[largest] >= CLASS_SHARE else Bound.COMPUTE


def together(ranks: tuple[RankAnalysis, ...], columns: tuple[str, ...]) -> Array:
    """Return the nanoseconds of *columns* per step, summed over ranks; else all steps in a row."""
    rows = [item.frame[list(columns)].sum(axis=1).to_numpy() for item in ranks]
    if len({row.size for row in rows}) == 1:
        total: Array = np.sum(rows, axis=0)
        return total
    return np.concatenate(rows)


def _shares(ranks: tuple[RankAnalysis, ...]) -> dict[Bound, Estimate]:
    of = together(ranks, ("window",))
    columns = CLASS_COLUMNS[ranks[0].mode]
    parts = {part: together(ranks, names) for part, names in columns.items()}
    parts[Bound.COMPUTE] = of - np.sum(list(parts.values()), axis=0)
    made = {}
    for part, spent in parts.items():
        estimate = ratio_over_steps(spent, of)
        if estimate is None:
            raise AssertionError("steps have a length")
        made[part] = estimate
    return made


def slow_rank(ranks: tuple[RankAnalysis, ...], stragglers: Stragglers | None) -> int | None:
    """Return the number of the rank that the others wait for, or None."""
    if stragglers is None:
        return None
    window = np.stack([item.frame["window"].to_numpy() for item in ranks])
    others = np.delete(np.arange(len(ranks)), stragglers.latest)
    share = float(stragglers.exposed[others].sum()) / float(window[others].sum())
    often = float(stragglers.last[stragglers.latest]) / stragglers.matched
    return ranks[stragglers.latest].rank if share > SLOW_SHARE and often >= SLOW_LAST else None


def _recoverable(
    ranks: tuple[RankAnalysis, ...], stragglers: Stragglers | None, slow: int | None
) -> tuple[Recoverable, ...]:
    mode = ranks[0].mode
    columns = CLASS_COLUMNS[mode]
    exposed = together(ranks, columns[Bound.COMMUNICATION])
    waiting, saved_by_balance = np.zeros(exposed.shape), np.zeros(exposed.shape)
    if stragglers is not None and stragglers.exposed.shape[1] == exposed.size:
        waiting = stragglers.exposed.sum(axis=0)
        # The last rank itself does not wait: a step gets shorter by what the others do.
        saved_by_balance = waiting * len(ranks) / (len(ranks) - 1)
    late = f"balance the ranks: rank {slow} is last" if slow is not None else "balance the ranks"
    causes: list[tuple[str, Array, str]] = [
        ("waiting for data", together(ranks, ("data",)), "have the next batch ready"),
        ("waiting for the last rank", saved_by_balance, late),
        ("exposed transfer", exposed - waiting, "overlap it with backward, or send less"),
    ]
    if mode is Mode.DEVICE:
        causes += [
            ("exposed copies", together(ranks, ("exposed_h2d",)), "copy pinned batches early"),
            ("late launches", together(ranks, ("host",)), "fewer, larger kernels; CUDA graphs"),
            ("synchronisation", together(ranks, ("sync",)), "do not read results in the step"),
        ]
    else:
        causes.append(("outside any phase", together(ranks, ("other",)), "see what runs there"))
    sharing = len(ranks) if exposed.size == len(ranks[0].frame) else 1
    made = []
    for name, spent, how in causes:
        saved = ratio_over_steps(spent / 1e6 / sharing, np.ones(spent.size))
        if saved is not None and saved.value > 0:
            made.append(Recoverable(name=name, ms=saved, how=how))
    made.sort(key=lambda item: -item.ms.value)
    return tuple(made[:MOST_RECOVERABLE])


def _checks(
    shares: Mapping[Bound, Estimate], controls: Controls | None
) -> tuple[ControlCheck, ...]:
    if controls is None:
        return ()
    known = {
        Bound.INPUT: controls.input_share,
        Bound.COMMUNICATION: controls.communication_share,
    }
    made = []
    for part, control in known.items():
        if control is None:
            continue
        seen = shares[part]
        low = (seen.value if seen.low is None else seen.low) - AGREEMENT
        high = (seen.value if seen.high is None else seen.high) + AGREEMENT
        made.append(
            ControlCheck(part=part, profile=seen, control=control, agrees=low <= control <= high)
        )
    return tuple(made)


def _bound_by_controls(controls: Controls | None) -> Bound | None:
    """Return input or communication by the same rule; None when neither reaches 10 %.

    The controls do not tell host from compute.
    """
    if controls is None:
        return None
    known = {
        Bound.INPUT: controls.input_share or 0.0,
        Bound.COMMUNICATION: controls.communication_share or 0.0,
        Bound.HOST: 0.0,
    }
    found = class_of(known)
    return None if found is Bound.COMPUTE else found


def _with_agreement(
    findings: tuple[Finding, ...], checks: tuple[ControlCheck, ...]
) -> tuple[Finding, ...]:
    from trainyard.profile.result import Finding

    apart = [
        Finding(
            name=f"profile and control disagree on {check.part}",
            text=f"The profile gives {check.part} {100 * check.profile.value:.1f} % of the step, "
            f"the control without profiler {100 * check.control:.1f} %: trust the control, the "
            "profiler changes what it measures",
            raised=True,
            value=check.profile,
        )
        for check in checks
        if not check.agrees
    ]
    return (*apart, *findings)


def _headline(
    bound: Bound,
    shares: Mapping[Bound, Estimate],
    slow: int | None,
    recoverable: tuple[Recoverable, ...],
) -> str:
    share = f"{100 * shares[bound].value:.0f} % of the step"
    if slow is not None and recoverable and recoverable[0].name == "waiting for the last rank":
        saved = recoverable[0].ms.value
        return (
            f"Rank {slow} is slow: the others wait for it, {saved:.2f} ms of a step "
            f"({NAMES[bound]}: {share})"
        )
    if bound is Bound.COMPUTE:
        return f"Bound by compute: {share}; input, communication and host stay below 10 % each"
    return f"Bound by {NAMES[bound]}: {share}"
