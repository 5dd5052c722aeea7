"""The staging benchmark runs, measures both sides and says whether the goals are met."""

from __future__ import annotations

import pytest

from benchmarks.staging import measure


@pytest.mark.slow
def test_a_small_measurement_is_complete():
    found = measure(size_bytes=20_000_000, repeats=2)
    assert len(found["stage_seconds"]) == len(found["raw_put_seconds"]) == 2
    low, high = found["stage_vs_raw_put_ci95"]
    assert 0 < low <= found["stage_vs_raw_put"] <= high
    assert 20_000_000 < found["memory_bytes"] < 200_000_000
    assert found["part_bytes"] == 8 * 2**20
