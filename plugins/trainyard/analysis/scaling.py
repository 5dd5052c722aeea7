"""Speed-up, efficiency and the Karp–Flatt serial fraction, against both base cases."""

from __future__ import annotations

from dataclasses import dataclass

from trainyard.analysis.selection import STRONG, Point, Series
from trainyard.analysis.statistics import Estimate, ratio

WITHOUT_DDP = "one process without DDP"
WITH_DDP = "one process with DDP"


@dataclass(kw_only=True, slots=True, frozen=True)
class Comparison:
    """One point of a curve against one base case."""

    mode: str
    """strong or weak."""
    batch: int
    """The batch the curve holds fixed."""
    ranks: int
    """Ranks of the point."""
    distributed: bool
    """False for the plain one-process run itself."""
    base: str
    """Which base case."""
    speedup: Estimate | None
    """Work per second over that of the base; None without valid runs on both sides."""
    efficiency: Estimate | None
    """Speed-up over ranks."""
    karp_flatt: Estimate | None
    """Experimentally determined serial fraction; strong scaling with two ranks or more."""
    reason: str = ""
    """Why there is no number."""


def karp_flatt(speedup: float, ranks: int) -> float:
    """Return the serial fraction e = (1/S − 1/N) / (1 − 1/N) (Karp & Flatt, CACM 33(5), 1990)."""
    return (1 / speedup - 1 / ranks) / (1 - 1 / ranks)


def comparisons_of(series: Series) -> tuple[Comparison, ...]:
    """Return every point against every base case that was planned."""
    bases = [(WITHOUT_DDP, series.plain_base), (WITH_DDP, series.ddp_base)]
    return tuple(
        _comparison(series, point, name, base)
        for name, base in bases
        if base is not None
        for point in series.points
    )


def headline(series: Series) -> str:
    """Return the base case the report leads with: the faster to explain, the plain process.

    Hoefler & Belli (SC'15, rule 1) ask which base a speed-up has; without a valid plain run it is
    the one-rank distributed one.
    """
    plain = series.plain_base
    return WITHOUT_DDP if plain is not None and plain.step_time is not None else WITH_DDP


def _comparison(series: Series, point: Point, name: str, base: Point) -> Comparison:
    # Work per step is equal (strong) or grows with the ranks (weak).
    work = 1.0 if series.mode == STRONG else float(point.ranks)
    reason = _missing(point, base, name)
    speedup = efficiency = serial = None
    if not reason:
        speedup = ratio(base.step_times, point.step_times, scale=work)
        efficiency = ratio(base.step_times, point.step_times, scale=work / point.ranks)
        if speedup is not None and series.mode == STRONG and point.ranks > 1:
            serial = _serial_fraction(speedup, point.ranks)
        if base is point and speedup is not None and efficiency is not None:
            speedup, efficiency = _exactly_one(speedup), _exactly_one(efficiency)
    return Comparison(
        mode=series.mode,
        batch=series.batch,
        ranks=point.ranks,
        distributed=point.distributed,
        base=name,
        speedup=speedup,
        efficiency=efficiency,
        karp_flatt=serial,
        reason=reason,
    )


def _exactly_one(estimate: Estimate) -> Estimate:
    """A point against itself is 1 by definition; its runs do not make it uncertain."""
    return Estimate(value=1.0, n=estimate.n)


def _missing(point: Point, base: Point, name: str) -> str:
    for what, chosen in ((f"the base case ({name})", base), ("this point", point)):
        if chosen.step_time is None:
            why = "; ".join(chosen.reasons[:2]) or "it never ran"
            return f"{what} has no valid run: {why}"
    return ""


def _serial_fraction(speedup: Estimate, ranks: int) -> Estimate:
    """Transform the speed-up and its interval; the fraction falls where the speed-up rises."""
    low = high = None
    if speedup.low is not None and speedup.high is not None:
        low, high = karp_flatt(speedup.high, ranks), karp_flatt(speedup.low, ranks)
    return Estimate(
        value=karp_flatt(speedup.value, ranks),
        low=low,
        high=high,
        n=speedup.n,
        method=speedup.method,
    )
