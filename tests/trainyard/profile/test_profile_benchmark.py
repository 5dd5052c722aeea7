"""The benchmark's own arithmetic, and a small run of its parts."""

from __future__ import annotations

from benchmarks.figures import missed
from benchmarks.profile import TARGETS
from benchmarks.profile_cases import worked_exact
from benchmarks.profile_nsys import write_nsys
from benchmarks.profile_scale import analysed, large, size, worst_error


def test_a_figure_that_breaks_its_promise_is_listed():
    kept = {name: limit for name, (_, limit) in TARGETS.items()}
    assert missed(kept, TARGETS) == []
    broken = {name: limit * (0.5 if sign == ">=" else 2) for name, (sign, limit) in TARGETS.items()}
    assert len(missed(broken, TARGETS)) == len(TARGETS)
    assert missed({"vs_hta": None}, TARGETS) == []


def test_the_worked_case_is_exact():
    assert worked_exact()


def test_a_trace_made_to_size_is_recovered_in_a_process_of_its_own(tmp_path):
    made = large(30_000)
    assert 0.8 * 30_000 < size(made) < 1.2 * 30_000
    found = analysed(write_nsys(tmp_path / "r0.sqlite", made))
    assert found["events"] == size(made)
    assert worst_error(found["parts"], made) < 0.01
    assert 0 < found["peak_bytes"] < 2e9
