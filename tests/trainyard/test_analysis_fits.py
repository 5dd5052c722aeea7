"""Fits on synthetic machines whose law is known, against scipy, and the refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from tests.fixtures.studies import Truth, amdahl, exact, flag, frames, gustafson, study, usl
from trainyard.analysis import StudyData, analyse
from trainyard.analysis.fits import Fit, Refusal, best_of
from trainyard.analysis.leastsquares import sample_of, solve

RANKS = (1, 2, 4, 8, 12)


def fit_of(data, name, mode="strong"):
    curve = next(c for c in analyse(data).curves if c.series.mode == mode)
    return next(fit for fit in curve.fits if fit.name == name)


def value(fit, symbol):
    return next(p for p in fit.parameters if p.parameter.symbol == symbol)


@pytest.mark.parametrize(
    ("law", "mode", "name", "expected"),
    [
        (amdahl(0.2, 0.08), "strong", "Amdahl", {"T(1)": 0.2, "s": 0.08}),
        (gustafson(0.2, 0.1), "weak", "Gustafson", {"T(1)": 0.2, "s": 0.1}),
        (usl(0.2, 0.04, 0.002), "strong", "Universal Scalability Law", {"σ": 0.04, "κ": 0.002}),
        (lambda n: n * usl(0.2, 0.04, 0.002)(n), "weak", "Universal Scalability Law",
         {"σ": 0.04, "κ": 0.002}),
    ],
)  # fmt: skip
def test_known_laws_are_recovered_within_their_intervals(law, mode, name, expected):
    truth = Truth(**{mode: law}, ranks=RANKS, repeats=6, global_batch=384)
    noisy = fit_of(study(truth), name, mode)
    clean = fit_of(study(exact(truth)), name, mode)
    for symbol, known in expected.items():
        found = value(noisy, symbol)
        assert found.low < known < found.high
        assert value(clean, symbol).value == pytest.approx(known, rel=1e-3)
    assert noisy.ranks == RANKS
    assert noisy.runs == 30


@pytest.mark.slow
def test_profile_intervals_cover_the_truth():
    hits = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        times = [tuple(amdahl(0.2, 0.08)(n) * np.exp(rng.normal(0, 0.02, 3))) for n in (1, 2, 4, 8)]
        sample = sample_of([1, 2, 4, 8], times)
        found = solve(
            sample, lambda p, s=sample: p[0] * (p[1] + (1 - p[1]) / s.ranks), np.array([0.2, 0.05])
        )
        low, high = found.intervals[1]
        hits += low <= 0.08 <= high
    assert 0.88 <= hits / 120 <= 1.0


def test_least_squares_agrees_with_scipy():
    rng = np.random.default_rng(4)
    ranks = [1, 2, 4, 8]
    times = [tuple(amdahl(0.2, 0.08)(n) * np.exp(rng.normal(0, 0.02, 5))) for n in ranks]
    sample = sample_of(ranks, times)
    found = solve(
        sample, lambda p: p[0] * (p[1] + (1 - p[1]) / sample.ranks), np.array([0.2, 0.05])
    )
    expected, _ = curve_fit(
        lambda n, t, s: np.log(t * (s + (1 - s) / n)),
        sample.ranks, sample.logs, p0=(0.2, 0.05), sigma=1 / np.sqrt(sample.weights),
    )  # fmt: skip
    assert found.parameters == pytest.approx(expected, rel=1e-4)


def test_a_law_with_a_useless_parameter_loses_on_aicc():
    data = study(Truth(strong=amdahl(0.2, 0.08), ranks=RANKS, repeats=6, global_batch=384))
    curve = analyse(data).curves[0]
    assert best_of(curve.fits).name == "Amdahl"


def test_a_wrong_law_is_called_out():
    def jumps(n):
        return amdahl(0.2, 0.05)(n) * (1.4 if n == 4 else 1.0)

    fit = fit_of(study(Truth(strong=jumps, ranks=(1, 2, 4, 8), repeats=5)), "Amdahl")
    assert fit.lack_of_fit < 0.01
    assert "by more than their runs scatter" in fit.note


def test_the_host_floor_is_found_where_there_is_one_and_bounded_where_not():
    batch, a, b, h = 1024, 2e-4, 0.004, 0.03

    def law(n):
        return max(h, a * batch / n + b)

    made = {"global_batch": batch, "repeats": 5, "communication": lambda _n: 0.0, "scatter": 0.005}
    found = fit_of(study(Truth(strong=law, ranks=(1, 2, 4, 8, 16, 32), **made)), "Host floor")
    assert value(found, "a").value == pytest.approx(a, rel=0.03)
    assert value(found, "h").value == pytest.approx(h, rel=0.01)
    assert value(found, "h").low < value(found, "h").value < value(found, "h").high

    def line(n):
        return a * batch / n + b

    bounded = fit_of(study(Truth(strong=line, ranks=(1, 2, 4, 8), **made)), "Host floor")
    assert value(bounded, "h").value is None
    assert value(bounded, "h").high == pytest.approx(line(8), rel=0.02)


def test_three_points_are_refused_with_what_is_needed():
    data = study(Truth(strong=amdahl(0.2, 0.1), ranks=(1, 2, 4)))
    for fit in analyse(data).curves[0].fits:
        assert isinstance(fit, Refusal)
        assert "3 of the 4" in fit.reason
        assert "4 or more numbers of ranks" in fit.needed


def test_a_flagged_point_does_not_count_towards_the_four():
    given = frames(Truth(strong=amdahl(0.2, 0.1), ranks=(1, 2, 4, 8)))
    flag(given, given["runs"]["ranks"].eq(8), "oversubscribed", "8 ranks on 2 cores")
    fits = analyse(StudyData.of(**given)).curves[0].fits
    for fit in fits:
        assert isinstance(fit, Refusal)
        assert "without a valid run at 8" in fit.reason


def test_single_runs_and_identical_times_still_fit():
    one = fit_of(study(Truth(strong=amdahl(0.2, 0.1), ranks=(1, 2, 4, 8), repeats=1)), "Amdahl")
    same = fit_of(study(exact(Truth(strong=amdahl(0.2, 0.1), ranks=(1, 2, 4, 8)))), "Amdahl")
    for fit in (one, same):
        assert isinstance(fit, Fit)
    assert value(one, "s").low < 0.1 < value(one, "s").high
    assert value(same, "s").value == pytest.approx(0.1, rel=1e-6)


def test_projections_are_beyond_what_was_measured():
    fit = fit_of(study(Truth(strong=amdahl(0.2, 0.1), ranks=(1, 2, 4, 8))), "Amdahl")
    assert max(n for n, _ in fit.curve) == pytest.approx(8)
    assert min(n for n, _ in fit.projected) == pytest.approx(8)
    assert max(n for n, _ in fit.projected) == pytest.approx(16)
