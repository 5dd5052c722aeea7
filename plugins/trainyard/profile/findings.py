"""What a profile raises: fractions beyond their thresholds, and signs of known causes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainyard.profile.kernels import LAUNCH_BOUND_SHARE, small_kernels
from trainyard.profile.result import Finding, Mode

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate
    from trainyard.profile.result import RankAnalysis
    from trainyard.profile.stragglers import Stragglers

DATA_WAIT, EXPOSED_COMM, GPU_BUSY = 0.05, 0.10, 0.50
"""Shares of the step: more waiting for data, more exposed communication, less GPU work raise."""
PAGEABLE, SYNC = 0.5, 0.05
PHASES = ("data", "forward", "backward", "optimizer", "other")


def findings_of(
    ranks: tuple[RankAnalysis, ...], stragglers: Stragglers | None, slow: int | None
) -> tuple[Finding, ...]:
    """Return all findings, raised ones first; thresholds are compared on the worst rank."""
    if ranks[0].mode is Mode.DEVICE:
        found = [
            _above(ranks, "data_gap", "data wait", DATA_WAIT),
            _above(ranks, "exposed_comm", "exposed communication", EXPOSED_COMM),
            _busy(ranks),
            _above(ranks, "sync_gap", "synchronisation", SYNC),
            _pageable(ranks),
            _small(ranks),
        ]
    else:
        found = [
            _above(ranks, "data_wait", "data wait", DATA_WAIT),
            _above(ranks, "exposed_comm", "exposed communication", EXPOSED_COMM),
        ]
    found += [_slow(ranks, stragglers, slow), *_residuals(ranks)]
    kept = [item for item in found if item is not None]
    return tuple(sorted(kept, key=lambda item: not item.raised))


def _percent(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:.1f} %"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _worst(
    ranks: tuple[RankAnalysis, ...], fraction: str, *, least: bool = False
) -> tuple[RankAnalysis, Estimate] | None:
    known = [(item, found) for item in ranks if (found := item.fractions.get(fraction))]
    if not known:
        return None
    pick = min if least else max
    return pick(known, key=lambda pair: pair[1].value)


def _resolved(estimate: Estimate, threshold: float) -> str:
    """Say when the interval holds the threshold: the profile is too short to tell."""
    return "" if not estimate.contains(threshold) else "; its interval holds the threshold"


def _above(
    ranks: tuple[RankAnalysis, ...], fraction: str, name: str, threshold: float
) -> Finding | None:
    worst = _worst(ranks, fraction)
    if worst is None:
        return None
    rank, value = worst
    return Finding(
        name=name,
        text=f"{name} takes {_percent(value)} of the step (rank {rank.rank}, threshold "
        f"{100 * threshold:.0f} %){_resolved(value, threshold)}",
        raised=value.value > threshold,
        value=value,
        threshold=threshold,
    )


def _busy(ranks: tuple[RankAnalysis, ...]) -> Finding | None:
    worst = _worst(ranks, "gpu_busy", least=True)
    if worst is None:
        return None
    rank, value = worst
    return Finding(
        name="GPU busy",
        text=f"the GPU works in {_percent(value)} of the step (rank {rank.rank}, threshold "
        f"{100 * GPU_BUSY:.0f} %){_resolved(value, GPU_BUSY)}",
        raised=value.value < GPU_BUSY,
        value=value,
        threshold=GPU_BUSY,
    )


def _pageable(ranks: tuple[RankAnalysis, ...]) -> Finding | None:
    known = [(item.pageable, item.rank) for item in ranks if item.pageable is not None]
    if not known:
        return None
    share, rank = max(known)
    return Finding(
        name="pageable copies",
        text=f"{100 * share:.0f} % of the bytes copied to the device come from pageable memory "
        f"(rank {rank}): such copies pass a staging buffer and do not overlap",
        raised=share > PAGEABLE,
    )


def _small(ranks: tuple[RankAnalysis, ...]) -> Finding | None:
    tables = [(item, item.kernels) for item in ranks if item.kernels is not None]
    if not tables:
        return None
    rank, table = max(tables, key=lambda pair: pair[1].short_share)
    return Finding(
        name="small kernels",
        text=f"{100 * table.short_share:.0f} % of {table.launches_per_step:.0f} launches a step "
        f"last under 10 us (rank {rank.rank}, threshold {100 * LAUNCH_BOUND_SHARE:.0f} %): "
        "launching costs as much as running",
        raised=small_kernels(table),
    )


def _slow(
    ranks: tuple[RankAnalysis, ...], stragglers: Stragglers | None, slow: int | None
) -> Finding | None:
    if stragglers is None:
        return None
    late = int(stragglers.last[stragglers.latest])
    rank = ranks[stragglers.latest]
    cost = float(stragglers.exposed.sum(axis=0).mean()) / max(1, len(ranks) - 1) / 1e6
    text = (
        f"rank {rank.rank} arrives last at {late} of {stragglers.matched} collectives (from "
        f"{stragglers.basis}); the others wait {cost:.2f} ms a step, on average"
    )
    if slow is not None:
        text += _where(ranks, stragglers.latest)
    return Finding(name="slow rank", text=text, raised=slow is not None)


def _where(ranks: tuple[RankAnalysis, ...], late: int) -> str:
    """Say which part of the step is longer on the late rank than on the others."""
    columns = PHASES if ranks[0].mode is Mode.HOST else ("compute", "data", "host", "sync")
    others = [item for place, item in enumerate(ranks) if place != late]
    extra = {
        name: float(
            ranks[late].frame[name].mean() - np.mean([o.frame[name].mean() for o in others])
        )
        / 1e6
        for name in columns
    }
    most = max(extra, key=lambda name: extra[name])
    if extra[most] <= 0:
        return ""
    label = "code outside any phase" if most == "other" else most
    return f"; it spends {extra[most]:.2f} ms more than the others in {label}"


def _residuals(ranks: tuple[RankAnalysis, ...]) -> list[Finding]:
    return [
        Finding(
            name="unexplained time",
            text=f"no part explains {item.residual_ms:.2f} ms of a step of rank {item.rank} "
            f"(limit {item.residual_limit_ms:.2f} ms): work was launched in time and yet did not "
            "run, or the trace lacks events",
            raised=True,
            value=item.fractions.get("unexplained"),
        )
        for item in ranks
        if not item.explained
    ]
