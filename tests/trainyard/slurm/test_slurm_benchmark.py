"""The benchmark's own rulers: percentiles, promises, counted commands, the mix of jobs."""

from __future__ import annotations

import os
import subprocess
from collections import Counter

import pytest

from benchmarks.figures import missed
from benchmarks.slurm import TARGETS, figures
from benchmarks.slurm_jobs import KINDS, Workplace
from benchmarks.slurm_truth import End, plan_mistakes, spread, watcher_figures
from trainyard.slurm.evidence import Target


@pytest.fixture
def place(tmp_path):
    made = Workplace(folder=tmp_path / "work", slurm_conf=tmp_path / "slurm.conf")
    made.prepare(20)
    for number, job in enumerate(made.jobs):
        job.target = Target(cluster="c", job_id=number, name=job.paths.run_id)
    return made


def test_percentiles_are_values_that_occurred():
    assert spread([float(n) for n in range(1, 101)], "x") == {
        "x_p50_s": 51.0, "x_p95_s": 95.0, "x_max_s": 100.0,
    }  # fmt: skip
    assert spread([3.0], "x")["x_p95_s"] == 3.0


def test_a_broken_promise_is_named():
    kept = dict.fromkeys(TARGETS, 0)
    assert missed(kept, TARGETS) == []
    assert missed(kept | {"orphans": 1}, TARGETS) == ["orphans = 1, promised <= 0"]
    assert missed(kept | {"detect_p95_s": 10.5}, TARGETS) == ["detect_p95_s = 10.5, promised <= 10"]


def test_figures_say_which_are_real():
    simulated = {
        "submissions": {"duplicates": 0, "orphans": 0, "false_verdicts": 0},
        "watching": {"detect_p95_s": 6.0, "commands_per_s": 0.1},
        "loop": {"loop_lag_max_s": 0.01, "bytes_per_job": 1000},
    }
    assert not [name for name in figures(simulated, None) if "real" in name or "submit" in name]


def test_every_kind_of_end_takes_part_and_limits_come_last(place):
    names = Counter(job.kind.name for job in place.jobs)
    assert set(names) == {kind.name for kind in KINDS}
    assert sum(names.values()) == 20
    assert sum(kind.share for kind in KINDS) == 200
    assert place.jobs[-1].kind.name in {"timeout", "timeout-unheard", "out-of-budget"}


def test_commands_are_counted_for_whoever_sent_them(place):
    for who in ("submitit", "trainyard", "trainyard"):
        (place.shims / "squeue").write_text(
            (place.shims / "squeue").read_text().replace("/usr/bin/squeue", "true")
        )
        subprocess.run(["squeue", "-h"], env=place.environment(who), check=True)
    assert place.counted("trainyard") == {"squeue": 2}
    assert place.counted("submitit") == {"squeue": 1}


def test_a_wrong_verdict_and_a_job_that_ended_otherwise_are_told(place):
    (place.folder / "plan.json").write_text("{}")
    os.utime(place.folder / "plan.json", (0, 0))  # the watch began five seconds before its end
    (place.calls).write_text("trainyard squeue\n")
    ends = {job.job_id: End(state=job.kind.state, at=0.0) for job in place.jobs}
    found = {job.job_id: (5.0, job.kind.outcome.value) for job in place.jobs}
    first = place.jobs[0]
    found[first.job_id] = (5.0, "lost")
    told = watcher_figures(place, ends, found, "trainyard")
    assert (told["wrong_verdicts"], told["wrong"]) == (1, [f"{first.kind.name}: lost"])
    assert (told["detect_p95_s"], told["commands_per_s"]) == (5.0, 0.2)
    assert plan_mistakes(place, ends) == []
    ends[first.job_id] = End(state="NODE_FAIL", at=0.0)
    assert plan_mistakes(place, ends) == [f"{first.paths.run_id}: NODE_FAIL"]
