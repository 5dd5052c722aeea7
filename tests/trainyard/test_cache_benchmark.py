"""The cache's benchmark on a small data set: both ratios, with their intervals."""

from __future__ import annotations

from benchmarks.containers_cache import GOALS, measure


def test_every_figure_has_its_interval():
    made = measure(size_bytes=3 * 2**20, repeats=3)
    for name in (*GOALS, "cache_hit_vs_plain_cold"):
        found = made[name]
        assert 0 < found["low"] <= found["ratio"] <= found["high"], name
    assert [len(pairs) for pairs in made["seconds"].values()] == [3, 3, 3]
    assert isinstance(made["passed"], bool)
