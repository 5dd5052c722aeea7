"""The interval algebra against a brute force that knows moments one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.profile import intervals as iv

MOMENT = st.integers(0, 60)
PAIRS = st.lists(st.tuples(MOMENT, MOMENT).map(sorted), max_size=25)


def of(pairs):
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return iv.union(columns[:, 0], columns[:, 1])


def moments(spans):
    return {
        m
        for a, b in zip(spans.start.tolist(), spans.end.tolist(), strict=True)
        for m in range(a, b)
    }


def brute(pairs):
    return {moment for low, high in pairs for moment in range(low, high)}


def canonical(spans):
    assert spans.start.dtype == spans.end.dtype == np.int64
    assert (spans.end > spans.start).all()
    assert (spans.start[1:] > spans.end[:-1]).all()
    return moments(spans)


@given(PAIRS)
def test_union_covers_what_any_covers(pairs):
    spans = of(pairs)
    assert canonical(spans) == brute(pairs)
    assert spans.length == len(brute(pairs))


@given(PAIRS, PAIRS)
def test_two_sets(first, second):
    a, b = of(first), of(second)
    assert canonical(iv.join(a, b)) == brute(first) | brute(second)
    assert canonical(iv.intersect(a, b)) == brute(first) & brute(second)
    assert canonical(iv.subtract(a, b)) == brute(first) - brute(second)


@given(PAIRS, MOMENT, MOMENT)
def test_clip_and_complement(pairs, low, high):
    window = set(range(low, high))
    assert canonical(iv.clip(of(pairs), low, high)) == brute(pairs) & window
    assert canonical(iv.complement(of(pairs), low, high)) == window - brute(pairs)


@given(PAIRS, st.lists(st.tuples(MOMENT, MOMENT).map(sorted), min_size=1, max_size=8))
def test_lengths_in_windows(pairs, windows):
    edges = np.array(windows, dtype=np.int64)
    got = iv.lengths(of(pairs), edges[:, 0], edges[:, 1])
    assert got.tolist() == [len(brute(pairs) & set(range(a, b))) for a, b in windows]


def test_touching_intervals_are_one_and_empty_ones_none():
    assert of([(1, 2), (2, 3), (5, 5)]).start.tolist() == [1]
    assert len(iv.span(3, 3)) == 0


def test_nanoseconds_since_1970_are_exact():
    base = 1_760_000_000_000_000_001
    spans = of([(base, base + 1), (base + 3, base + 10)])
    assert iv.clip(spans, base + 4, base + 6).length == 2


def test_an_interval_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="ends before it starts"):
        of([(1, 5), (4, 3)])
    with pytest.raises(ValueError, match="give one end per start"):
        iv.union(np.arange(3), np.arange(2))
