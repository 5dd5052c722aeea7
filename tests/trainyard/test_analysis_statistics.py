"""Intervals: what they cover is measured here, by simulation with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainyard.analysis.statistics import (
    BOOTSTRAP,
    LOG_T,
    NO_INTERVAL,
    STUDENT_T,
    binomial_interval,
    bootstrap_medians,
    estimate,
    harmonic_mean,
    ratio,
    smallest_detectable,
    welch,
)

STUDIES = 1500


def covered(n: int, draw, truth: float) -> float:
    rng = np.random.default_rng(n)
    return float(np.mean([estimate(draw(rng, n)).contains(truth) for _ in range(STUDIES)]))


def lognormal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(rng.normal(0, 0.03, n))


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """A clean machine with one-sided disturbances: 1 plus exponential."""
    return 1 + rng.exponential(0.05, n)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 10])
@pytest.mark.parametrize(
    ("draw", "truth", "least"),
    [(lognormal, 1.0, 0.93), (skewed, 1 + 0.05 * math.log(2), 0.91)],
    ids=["normal", "skew"],
)
def test_intervals_of_few_runs_cover_what_they_claim(n, draw, truth, least):
    # 1,500 studies: the standard error of a 95 % coverage is 0.6 %. Five runs can cover 93.75 %
    # at most without an assumption (their smallest to their largest); skew costs t a little.
    assert least <= covered(n, draw, truth) <= 0.99


def test_the_plain_bootstrap_of_three_runs_would_cover_three_times_in_four():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, *_, high = sorted(rng.normal(0, 1, 3))
        hits += low <= 0 <= high  # all that 27 resamples can return
    assert hits / 2000 == pytest.approx(0.75, abs=0.03)


def test_method_follows_the_number_of_runs():
    assert estimate([3.0]).method == NO_INTERVAL
    assert (estimate([3.0]).low, estimate([3.0]).cv) == (None, None)
    assert estimate([3.0, 3.1]).method == LOG_T
    assert estimate([3.0, 3.1, 2.9, 3.0]).limited
    assert estimate([3.0, 3.1, 2.9, 3.0, 3.0]).method == BOOTSTRAP
    assert estimate([-0.1, 0.2, 0.1], signed=True).method == STUDENT_T


def test_log_t_equals_scipy():
    values = [0.101, 0.104, 0.099]
    logs = np.log(values)
    low, high = stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs))
    found = estimate(values)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.value == 0.101
    assert found.cv == pytest.approx(np.std(values, ddof=1) / np.mean(values))


def test_bootstrap_agrees_with_resampling_by_hand():
    values = np.sort(np.random.default_rng(1).lognormal(0, 0.1, 41))
    drawn = bootstrap_medians(values, np.random.default_rng(2), 40_000)
    rng = np.random.default_rng(3)
    by_hand = np.median(rng.choice(values, (40_000, 41)), axis=1)
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(by_hand, [0.1, 0.5, 0.9]), rel=0.01
    )


def test_ratio_covers_the_truth_and_welch_agrees_with_scipy():
    rng = np.random.default_rng(5)
    hits = sum(
        ratio(lognormal(rng, 3) * 2, lognormal(rng, 3)).contains(2.0) for _ in range(STUDIES)
    )
    assert 0.925 <= hits / STUDIES <= 0.99
    first, second = [1.0, 1.2, 1.1], [0.9, 0.8, 1.0, 0.85]
    centre, half = welch(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (centre - half, centre + half) == pytest.approx(tuple(expected))


def test_ratio_of_one_run_each_has_no_interval():
    found = ratio([2.0], [1.0])
    assert (found.value, found.low, found.high, found.method) == (2.0, None, None, NO_INTERVAL)
    assert ratio([], [1.0]) is None
    assert ratio([math.nan], [1.0]) is None


def test_one_run_against_several_borrows_their_scatter():
    found = ratio([2.0], [1.0, 1.01, 0.99])
    assert found.low < 2.0 < found.high
    wider = ratio([2.0], [1.0, 1.1, 0.9])
    assert wider.high - wider.low > found.high - found.low


def test_smallest_detectable_effect_is_seen_eight_times_in_ten():
    rng = np.random.default_rng(8)
    base, other = rng.normal(0, 1, (2, 20_000, 6))
    effects = [smallest_detectable(a, b) for a, b in zip(base[:400], other[:400], strict=True)]
    seen = stats.ttest_ind(base + np.mean(effects), other, axis=1, equal_var=False).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.05)


def test_harmonic_mean_is_total_work_over_total_time():
    assert harmonic_mean([100.0, 50.0]) == pytest.approx(2 * 100 / (1 + 2))
    assert harmonic_mean([0.0, math.nan]) is None


def test_wilson_agrees_with_scipy():
    expected = stats.binomtest(352, 360).proportion_ci(0.95, method="wilson")
    assert binomial_interval(352 / 360, 360) == pytest.approx((expected.low, expected.high))
    assert binomial_interval(1.0, 360)[1] == pytest.approx(1.0)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12))
def test_any_values_give_an_estimate_or_none(values):
    with np.errstate(all="ignore"):
        found = estimate(values, signed=True)
    assert (found is None) == (not any(math.isfinite(value) for value in values))


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12))
def test_the_median_lies_in_its_interval(values):
    found = estimate(values)
    assert found.low <= found.value * (1 + 1e-12)
    assert found.value <= found.high * (1 + 1e-12)
