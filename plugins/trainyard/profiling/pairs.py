"""The same work with and without a profiler: what profiling cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainer.contract import Control, Profiler, RunSpec, Scaling

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate

STEP_TIME, RATE = "step_time_s", "images_per_second"


def work_of(spec: RunSpec) -> str:
    """Return what *spec* trains, whoever watches, whatever study it was planned for."""
    controls: tuple[Control, ...] = ()
    return replace(
        spec,
        name="any",
        scaling=Scaling.NONE,
        controls=controls,
        profiler=Profiler.NONE,
        profile_steps=1,
    ).config_id


@dataclass(kw_only=True, slots=True, frozen=True)
class Overhead:
    """The profiler's slowdown: 0.01 is 1 %. Intervals are over runs."""

    outside: Estimate | None
    """Timed steps under the profiler against the same steps without: it is there, and waits."""
    inside: Estimate | None
    """Captured steps against the timed steps of the same runs: it collects."""
    pairs: int
    """Runs of either kind, the smaller number."""


def overhead_of(
    plain_s: Sequence[float], watched_s: Sequence[float], captured_s: Sequence[float]
) -> Overhead:
    """Return the overhead from seconds per step, one value per run.

    *plain_s* without a profiler, *watched_s* in the timed windows under it, *captured_s* in the
    captured steps. Medians are compared, with the joint interval of ``statistics.ratio``; a single
    pair has none.
    """
    return Overhead(
        outside=_more(watched_s, plain_s),
        inside=_more(captured_s, watched_s),
        pairs=min(len(plain_s), len(watched_s)),
    )


def _more(above: Sequence[float], below: Sequence[float]) -> Estimate | None:
    from trainyard.analysis.statistics import ratio

    found = ratio(above, below)
    if found is None:
        return None
    return replace(
        found,
        value=found.value - 1,
        low=None if found.low is None else found.low - 1,
        high=None if found.high is None else found.high - 1,
    )


def told(name: str, found: Estimate | None) -> str:
    """Return an overhead as a line of a log."""
    if found is None:
        return f"{name}: not measured"
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{name}: {100 * found.value:+.1f} %{ends}, n = {found.n}"
