"""``make bench-containers``: which of its parts' numbers are held against what is promised."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.containers import PARTS, TARGETS, promised
from benchmarks.figures import missed

GOOD = {
    "images": {"rebuild_s": {"smallest": 4.0, "median": 5.0, "largest": 6.0, "builds": 5}},
    "cache": {
        "cache_hit_vs_plain": {"ratio": 0.99, "low": 0.97, "high": 1.0},
        "cache_miss_vs_raw_get": {"ratio": 1.1, "low": 1.0, "high": 1.2},
    },
    "docker": {"container_vs_process": 0.995},
    "apptainer": {"apptainer_vs_process": 0.99},
    "stack": {
        "healthy_s": 50.0,
        "idle_bytes": 2 << 30,
        "faults": {"tried": 15, "survived": 15, "lost": 0, "doubled": 0},
    },
}


def test_every_promise_has_its_number():
    assert set(promised(GOOD)) == set(TARGETS)
    assert missed(promised(GOOD), TARGETS) == []


def test_the_worst_of_several_builds_counts():
    slow = GOOD | {"images": {"rebuild_s": {"median": 5.0, "largest": 21.0}}}
    assert missed(promised(slow), TARGETS) == ["rebuild_s = 21, promised <= 20"]


def test_a_lost_or_doubled_run_is_a_miss():
    stack = GOOD["stack"] | {"faults": {"tried": 15, "survived": 14, "lost": 1, "doubled": 1}}
    assert len(missed(promised({"stack": stack}), TARGETS)) == 2


def test_parts_that_did_not_run_are_not_judged():
    assert missed(promised({"docker": {"container_vs_process": 0.9}}), TARGETS) == [
        "container_vs_process = 0.9, promised >= 0.98"
    ]


def test_each_part_prints_the_names_it_is_judged_by():
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    written = "".join((folder / script).read_text() for script in PARTS.values())
    for name in set(TARGETS) - {"faults_lost", "faults_doubled"} | {"lost", "doubled"}:
        assert re.search(rf'"{name}"', written), name
