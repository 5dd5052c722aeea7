"""Medians, intervals and ratios over runs. A number here is a run, never a step.

Which interval (docs/report.md has the formulas, sources and the simulated coverage):

- five runs or more: smoothed percentile bootstrap of the median, exact for one sample, 10,000
  resamples with a fixed seed for a ratio;
- two to four runs: the bootstrap of so few values can only return the smallest and the largest,
  which covers the median of three runs 75 times in 100. Student's t on the logarithms is used
  instead (on the values themselves where they may be negative): it assumes normal scatter, is
  wide, and covers what it says under that assumption;
- one run: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import betaincinv, stdtrit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = Sequence[float] | NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
ENOUGH_FOR_BOOTSTRAP = 5
SEED = 20_150_711
TAIL = (1 - CONFIDENCE) / 2

BOOTSTRAP = "bootstrap"
LOG_T = "log-t"
STUDENT_T = "t"
NO_INTERVAL = "none"


@dataclass(kw_only=True, slots=True, frozen=True)
class Estimate:
    """A number with its 95 % interval over runs."""

    value: float
    """Median over runs, or the ratio of two medians."""
    low: float | None = None
    """Lower end of the interval; None with a single run."""
    high: float | None = None
    """Upper end of the interval; None with a single run."""
    n: int
    """Runs behind it; for a ratio the smaller of the two."""
    method: str = NO_INTERVAL
    """bootstrap, log-t, t or none."""
    iqr: float | None = None
    """Distance between the quartiles; None for ratios."""
    cv: float | None = None
    """Standard deviation over mean; None for ratios and single runs."""
    smallest: float | None = None
    """Smallest run; None for ratios."""
    largest: float | None = None
    """Largest run; None for ratios."""

    @property
    def limited(self) -> bool:
        """Fewer than five runs: the interval leans on an assumption, not on data."""
        return self.n < ENOUGH_FOR_BOOTSTRAP

    def contains(self, value: float) -> bool:
        """Say whether *value* lies in the interval; never without an interval."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def finite(values: Values) -> NDArray[np.float64]:
    """Return the finite values, sorted."""
    array = np.asarray(values, dtype=np.float64)
    return np.sort(array[np.isfinite(array)])


def estimate(values: Values, *, signed: bool = False) -> Estimate | None:
    """Return the median with its interval, or None without a finite value.

    *signed* values (differences) may be negative, so that t is taken on them, not on their
    logarithms.
    """
    array = finite(values)
    if not array.size:
        return None
    n = int(array.size)
    low, high, method = _interval(array, signed=signed)
    mean = float(array.mean())
    deviation = float(array.std(ddof=1)) if n > 1 else None
    quartiles = np.percentile(array, [25, 75])
    return Estimate(
        value=float(np.median(array)),
        low=low,
        high=high,
        n=n,
        method=method,
        iqr=float(quartiles[1] - quartiles[0]),
        cv=None if deviation is None or mean == 0 else deviation / abs(mean),
        smallest=float(array[0]),
        largest=float(array[-1]),
    )


def ratio(numerator: Values, denominator: Values, *, scale: float = 1.0) -> Estimate | None:
    """Return ``scale x median(numerator) / median(denominator)`` with its joint interval.

    Both samples are independent runs of positive values. Resampled jointly when both have five
    runs or more; otherwise Welch's t on the difference of the mean logarithms. None when either
    has no positive finite value.
    """
    above, below = _positive(numerator), _positive(denominator)
    if not above.size or not below.size:
        return None
    value = scale * float(np.median(above) / np.median(below))
    n = int(min(above.size, below.size))
    if n >= ENOUGH_FOR_BOOTSTRAP:
        first, second = np.random.default_rng(SEED).spawn(2)
        ratios = bootstrap_medians(above, first) / bootstrap_medians(below, second)
        ends = scale * np.quantile(ratios, [TAIL, 1 - TAIL])
        return Estimate(value=value, low=float(ends[0]), high=float(ends[1]), n=n, method=BOOTSTRAP)
    difference = welch(np.log(above), np.log(below))
    if difference is None:
        return Estimate(value=value, n=n)
    centre, half = difference
    low, high = scale * float(np.exp(centre - half)), scale * float(np.exp(centre + half))
    # Two very different spreads can put the ratio of medians a hair outside.
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, method=LOG_T)


def welch(first: Values, second: Values, *, floor: float = 0.0) -> tuple[float, float] | None:
    """Return mean(first) − mean(second) and the half width of its 95 % interval.

    Welch–Satterthwaite degrees of freedom; a sample of one borrows the other's variance (pooled),
    and None is returned when neither has two values. *floor* is a variance of a single value below
    which neither sample's is believed.
    """
    error = standard_error(first, second, floor=floor)
    if error is None:
        return None
    deviation, freedom = error
    difference = float(np.mean(first) - np.mean(second))
    return difference, float(stdtrit(freedom, 1 - TAIL)) * deviation


def standard_error(
    first: Values, second: Values, *, floor: float = 0.0
) -> tuple[float, float] | None:
    """Return the standard error of a difference of two means and its degrees of freedom."""
    sizes = np.array([len(first), len(second)], dtype=np.float64)
    if sizes.min() < 1 or sizes.max() < 2:  # noqa: PLR2004 - no variance from single values
        return None
    spread = [float(np.var(v, ddof=1)) if len(v) > 1 else None for v in (first, second)]
    known = [value for value in spread if value is not None]
    variance = np.array([max(known[0] if v is None else v, floor) for v in spread])
    parts = variance / sizes
    total = float(parts.sum())
    freedoms = np.maximum(sizes - 1, 0)
    if min(freedoms) == 0:
        return total**0.5, float(max(freedoms))
    if total == 0:
        return 0.0, float(freedoms.sum())
    freedom = total**2 / float((parts**2 / freedoms).sum())
    return total**0.5, freedom


def smallest_detectable(
    first: Values, second: Values, *, power: float = 0.8, floor: float = 0.0
) -> float | None:
    """Return the smallest true difference of means a two-sided 5 % test would see 8 times in 10."""
    error = standard_error(first, second, floor=floor)
    if error is None:
        return None
    deviation, freedom = error
    return float(stdtrit(freedom, 1 - TAIL) + stdtrit(freedom, power)) * deviation


def bootstrap_medians(
    values: Values, rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Return the medians of *resamples* bootstrap samples of sorted *values*, shape (resamples,).

    The median of n uniform draws is Beta((n + 1) / 2, (n + 1) / 2) distributed (exactly for odd
    n), and a resampled median is the sample's quantile at that share: it is drawn directly, in
    time that does not grow with n. The quantiles are interpolated (type 6, k / (n + 1)): the stair
    shaped ones of the plain bootstrap jump from one run to the next, and cover 87 % at n = 7.
    """
    middle = (len(values) + 1) / 2
    return _quantiles(values, rng.beta(middle, middle, resamples))


def _quantiles(values: Values, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the type 6 quantiles of sorted *values* at *shares* between 0 and 1."""
    places = np.arange(1, len(values) + 1) / (len(values) + 1)
    return np.interp(shares, places, values)


def harmonic_mean(rates: Values) -> float | None:
    """Return the harmonic mean of positive rates: total work over total time for equal work."""
    array = _positive(rates)
    return float(array.size / np.sum(1 / array)) if array.size else None


def binomial_interval(share: float, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share seen in *trials* independent tries."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (z / (1 + z * z / trials)) * (
        share * (1 - share) / trials + z * z / (4 * trials * trials)
    ) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _positive(values: Values) -> NDArray[np.float64]:
    array = finite(values)
    return array[array > 0]


def _interval(
    array: NDArray[np.float64], *, signed: bool
) -> tuple[float | None, float | None, str]:
    n = array.size
    if n == 1:
        return None, None, NO_INTERVAL
    if n >= ENOUGH_FOR_BOOTSTRAP:
        # The quantiles of the bootstrap distribution itself: nothing is left to chance here.
        middle = (n + 1) / 2
        ends = _quantiles(array, betaincinv(middle, middle, np.array([TAIL, 1 - TAIL])))
        return float(ends[0]), float(ends[1]), BOOTSTRAP
    on_logarithms = not signed and bool(array[0] > 0)
    scale: Any = np.log(array) if on_logarithms else array
    half = float(stdtrit(n - 1, 1 - TAIL)) * float(np.std(scale, ddof=1)) / n**0.5
    ends = scale.mean() + np.array([-half, half])
    median = float(np.median(array))
    if on_logarithms:
        ends = np.exp(ends)
    method = LOG_T if on_logarithms else STUDENT_T
    return min(float(ends[0]), median), max(float(ends[1]), median), method
