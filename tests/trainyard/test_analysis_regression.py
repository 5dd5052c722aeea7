"""The rule for regressions: what it says of planted and of quiet nights, and what it never does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainyard.analysis.regression import (
    LEAST_CHANGE,
    REFERENCE_NIGHTS,
    Better,
    Night,
    State,
    judge,
    prediction,
)


def night(day, *values, machine="m"):
    return Night(at=f"2026-11-{day:02}", machine=machine, values=values)


def series(medians, spread=0.004, machine="m"):
    return [
        night(day, *(m * f for f in (1 - spread, 1, 1 + spread)), machine=machine)
        for day, m in enumerate(medians, start=1)
    ]


QUIET = [100.0, 101.0, 99.5, 100.5, 99.0, 100.2]


@pytest.mark.parametrize(
    ("later", "state"),
    [
        ([100.0], State.STEADY),
        ([80.0], State.SUSPECTED),
        ([80.0, 100.0], State.STEADY),
        ([100.0, 80.0], State.SUSPECTED),
        ([80.0, 80.0], State.CONFIRMED),
        ([80.0, 100.0, 80.0], State.SUSPECTED),
        ([80.0] * 9, State.CONFIRMED),
        ([120.0, 120.0], State.STEADY),
    ],
)
def test_planted_nights(later, state):
    found = judge(series([*QUIET, *later]), Better.HIGHER)
    assert found.state is state, found.why
    assert found.low < 100 < found.high


def test_lower_may_be_better():
    assert judge(series([*QUIET, 120.0, 120.0]), Better.LOWER).state is State.CONFIRMED
    assert judge(series([*QUIET, 80.0, 80.0]), Better.LOWER).state is State.STEADY


def test_nights_that_are_worse_do_not_become_the_reference():
    found = judge(series([*QUIET, *[80.0] * 20]), Better.HIGHER)
    assert found.nights == len(QUIET)
    assert found.change == pytest.approx(-0.2, abs=0.01)


def test_a_wide_night_that_reaches_the_reference_is_no_regression():
    wide = [*series(QUIET), night(20, 60.0, 80.0, 99.0), night(21, 60.0, 80.0, 99.0)]
    assert judge(wide, Better.HIGHER).state is State.STEADY


def test_a_change_too_small_to_matter_is_none():
    exact = [100.0, 100.001, 99.999, 100.0, 100.001]
    small = 100 * (1 - LEAST_CHANGE / 2)
    assert judge(series([*exact, small, small], 1e-6), Better.HIGHER).state is State.STEADY
    large = 100 * (1 - LEAST_CHANGE * 1.1)
    assert judge(series([*exact, large, large], 1e-6), Better.HIGHER).state is State.CONFIRMED


def test_too_few_nights_say_nothing():
    for count in range(REFERENCE_NIGHTS):
        found = judge(series([*QUIET[:count], 10.0]), Better.HIGHER)
        assert found.state is State.UNKNOWN
        assert f"{count} earlier nights" in found.why
    assert judge([night(1, 5.0)], Better.HIGHER).state is State.UNKNOWN
    assert "repeats" in judge([night(1, 5.0)], Better.HIGHER).why


def test_another_machine_is_another_story():
    moved = [*series(QUIET), night(20, 79, 80, 81, machine="n"), night(21, 79, 80, 81, machine="n")]
    assert judge(moved, Better.HIGHER).state is State.UNKNOWN


def test_the_reference_is_a_prediction_interval():
    """Hahn & Meeker: one more value falls inside 95 times in 100, whatever n."""
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(4000):
        *before, after = np.exp(rng.normal(0, 0.03, 7))
        low, high = prediction(before)
        inside += low <= after <= high
    assert inside / 4000 == pytest.approx(0.95, abs=0.012)


def test_false_alarms_on_nights_without_a_change():
    """A/A: 12 nights of 3 runs, 1.5 % between nights and 0.8 % within; confirmed is rare."""
    rng = np.random.default_rng(11)
    states = []
    for _ in range(1500):
        medians = 100 * np.exp(rng.normal(0, 0.015, 12))
        nights = [
            night(day, *(m * np.exp(rng.normal(0, 0.008, 3)))) for day, m in enumerate(medians, 1)
        ]
        states.append(judge(nights, Better.HIGHER).state)
    assert states.count(State.CONFIRMED) / len(states) < 0.002
    assert states.count(State.SUSPECTED) / len(states) < 0.02


def test_a_tenth_slower_is_seen_and_a_fiftieth_is_not_promised():
    rng = np.random.default_rng(12)
    seen = 0
    for _ in range(300):
        medians = 100 * np.exp(rng.normal(0, 0.015, 14))
        medians[-2:] *= 0.85
        nights = [
            night(day, *(m * np.exp(rng.normal(0, 0.004, 5)))) for day, m in enumerate(medians, 1)
        ]
        seen += judge(nights, Better.HIGHER).state is State.CONFIRMED
    assert seen / 300 > 0.95


positive = st.floats(1e-3, 1e6)
many_nights = st.lists(
    st.lists(positive, min_size=1, max_size=4), min_size=1, max_size=12
).map(lambda rows: [night(day, *row) for day, row in enumerate(rows, start=1)])  # fmt: skip


@given(many_nights, st.randoms(), st.sampled_from(Better))
def test_the_order_in_which_nights_are_given_does_not_matter(nights, random, better):
    shuffled = random.sample(nights, len(nights))
    assert judge(shuffled, better) == judge(nights, better)


@given(many_nights, st.sampled_from([2.0**k for k in range(-8, 9)]), st.sampled_from(Better))
def test_the_unit_does_not_matter(nights, factor, better):
    scaled = [
        Night(at=n.at, machine=n.machine, values=tuple(v * factor for v in n.values))
        for n in nights
    ]
    assert judge(scaled, better).state is judge(nights, better).state


@given(many_nights, st.floats(1.0, 100.0), st.sampled_from(Better))
def test_a_better_last_night_never_makes_it_worse(nights, factor, better):
    before = judge(nights, better)
    assume(before.state is not State.UNKNOWN)
    *rest, last = nights
    gain = factor if better is Better.HIGHER else 1 / factor
    improved = Night(at=last.at, machine="m", values=tuple(v * gain for v in last.values))
    order = [State.STEADY, State.SUSPECTED, State.CONFIRMED]
    after = judge([*rest, improved], better)
    assert order.index(after.state) <= order.index(before.state)


@given(many_nights, st.sampled_from(Better))
def test_confirmed_needs_enough_nights_and_an_interval_beyond_the_reference(nights, better):
    found = judge(nights, better)
    if found.state not in {State.SUSPECTED, State.CONFIRMED}:
        return
    assert found.nights >= REFERENCE_NIGHTS
    if better is Better.HIGHER:
        assert found.latest.high < found.low
    else:
        assert found.latest.low > found.high
