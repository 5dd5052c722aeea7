"""Points, curves, efficiencies, attribution, accuracy and validity with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.fixtures.studies import Truth, amdahl, exact, fail, flag, frames, gustafson, study
from trainyard.analysis import StudyData, analyse
from trainyard.analysis.scaling import (
    WITH_DDP,
    WITHOUT_DDP,
    karp_flatt,
)
from trainyard.analysis.selection import exclusions

BOTH = Truth(strong=amdahl(0.2, 0.06), weak=gustafson(0.15, 0.05))


def curve_of(data, mode="strong"):
    return next(curve for curve in analyse(data).curves if curve.series.mode == mode)


def against(curve, base, ranks):
    return next(item for item in curve.comparisons if (item.base, item.ranks) == (base, ranks))


@pytest.mark.parametrize(
    ("one", "eight", "published"),
    [(2470, 16621, 84.1), (938, 7248, 96.6), (1200, 8322, 86.7), (367, 2855, 97.2)],
    ids=["A100 AMP", "A100 TF32", "V100 AMP", "V100 FP32"],
)
def test_published_resnet50_efficiencies(one, eight, published):
    # NVIDIA publishes images/s with the batch per GPU fixed: weak scaling, whatever its title says.
    batch = 256
    truth = Truth(
        weak=lambda n: batch * n / {1: one, 8: eight}[n], ranks=(1, 8), per_rank_batch=batch,
        plain=None, scatter=0.0, gpu=True,
    )  # fmt: skip
    item = against(curve_of(study(truth), "weak"), WITH_DDP, 8)
    assert 100 * item.efficiency.value == pytest.approx(published, abs=0.06)
    assert item.speedup.value == pytest.approx(eight / one)


def test_torchtitan_per_gpu_rates():
    # 5762 tokens/s per GPU on 8 GPUs, 5605 on 128: time per step in inverse ratio.
    truth = Truth(
        weak=lambda n: 1 / {1: 5762, 16: 5605}[n], ranks=(1, 16), plain=None, scatter=0.0, gpu=True
    )
    item = against(curve_of(study(truth), "weak"), WITH_DDP, 16)
    assert 100 * item.efficiency.value == pytest.approx(97.3, abs=0.05)


def test_strong_efficiency_and_karp_flatt_of_amdahls_law():
    law = amdahl(1.0, 0.25)
    truth = Truth(strong=law, ranks=(1, 2, 4, 8), plain=None, scatter=0.0)
    curve = curve_of(study(truth))
    assert against(curve, WITH_DDP, 4).efficiency.value == pytest.approx(1 / (4 * 0.4375))
    for ranks in (2, 4, 8):
        assert karp_flatt(law(1) / law(ranks), ranks) == pytest.approx(0.25)
        assert against(curve, WITH_DDP, ranks).karp_flatt.value == pytest.approx(0.25)


def test_both_bases_are_reported_and_the_plain_one_leads():
    curve = curve_of(study(exact(BOTH)))
    assert curve.base == WITHOUT_DDP
    with_ddp, without = (against(curve, base, 2) for base in (WITH_DDP, WITHOUT_DDP))
    true = 0.2 / (2 * amdahl(0.2, 0.06)(2))
    assert with_ddp.efficiency.value == pytest.approx(true)
    assert without.efficiency.value == pytest.approx(0.98 * true)
    assert with_ddp.karp_flatt.value == pytest.approx(0.06)
    assert against(curve, WITH_DDP, 1).efficiency.value == 1.0
    assert against(curve, WITH_DDP, 1).efficiency.low is None


def test_efficiency_intervals_hold_the_truth():
    for seed in range(5):
        curve = curve_of(study(Truth(**{**BOTH.__dict__, "seed": seed, "repeats": 6})), "weak")
        item = against(curve, WITH_DDP, 2)
        assert item.efficiency.low < gustafson(1, 0.05)(1) / gustafson(1, 0.05)(2)
        assert item.efficiency.high > 0.96 * item.efficiency.value
        assert item.efficiency.method == "bootstrap"


def test_a_configuration_that_both_modes_share_is_on_both_curves():
    # Strong with global batch 128 on 2 ranks does the work of weak with 64 per rank: run once.
    truth = Truth(strong=lambda n: 0.2 / n, weak=lambda _n: 0.1, per_rank_batch=64, scatter=0.0)
    analysis = analyse(study(truth))
    assert len([p for p in analysis.points if p.ranks == 2]) == 1
    weak = next(c for c in analysis.curves if c.series.mode == "weak")
    assert [point.ranks for point in weak.series.points] == [1, 2]
    assert against(weak, WITH_DDP, 2).efficiency.value == pytest.approx(1.0)


def test_different_machines_are_never_compared():
    given = frames(BOTH)
    runs = given["runs"]
    runs.loc[runs["ranks"] == 2, "hostname"] = "another-host"
    analysis = analyse(StudyData.of(**given))
    assert all(len(c.series.points) == 1 for c in analysis.curves)


def test_a_run_that_died_before_it_knew_its_host_stays_with_its_configuration():
    given = frames(BOTH)
    runs = given["runs"]
    fail(given, runs["ranks"].eq(2) & runs["repeat"].eq(0))
    point = next(p for p in analyse(StudyData.of(**given)).points if p.name == "strong-b128-n2")
    assert (point.planned, point.valid, point.unsound) == (3, 2, 1)
    assert point.reasons == ("failed in train: rank 1 died",)


def test_flagged_runs_are_shown_and_never_compared():
    given = frames(BOTH)
    runs = given["runs"]
    flag(given, runs["ranks"].eq(2), "unstable", "window CV 7.3 % > 5 %")
    analysis = analyse(StudyData.of(**given))
    point = next(p for p in analysis.points if p.name == "strong-b128-n2")
    assert point.step_time is None
    assert point.flagged_step_time.n == 3
    item = against(next(c for c in analysis.curves if c.series.mode == "strong"), WITH_DDP, 2)
    assert item.efficiency is None
    assert "unstable (window CV 7.3 % > 5 %)" in item.reason
    assert [(f.flag, f.runs) for f in analysis.flags] == [("unstable", 6)]


def test_every_doubt_keeps_a_run_out():
    runs = StudyData.of(
        study={"study_id": "s"},
        runs=pd.DataFrame(
            [
                {"status": "completed", "sane": 1, "comparable": 1, "step_time_s": 0.1},
                {"status": "completed", "sane": 1, "comparable": 1, "step_time_s": None},
                {"status": "completed", "sane": 0, "comparable": 0, "reason": "loss is NaN"},
                {"status": "lost", "sane": None, "comparable": None, "phase": "warmup"},
                {"status": "completed", "sane": 1, "comparable": 0, "flags": '["throttled"]',
                 "flag_details": "[]", "step_time_s": 0.1},
                {"status": "completed", "sane": 1, "comparable": 0, "flags": "broken [json"},
                {"status": "completed", "sane": 1, "comparable": 1, "step_time_s": np.inf},
            ]
        ),
    ).runs  # fmt: skip
    assert exclusions(runs).tolist() == [
        "",
        "no time per step was measured",
        "sanity check failed: loss is NaN",
        "lost in warmup",
        "flagged throttled",
        "flagged broken [json",
        "no time per step was measured",
    ]


def test_attribution_recovers_input_and_communication():
    truth = Truth(
        strong=amdahl(0.2, 0.0), repeats=6, scatter=0.002, input_cost=0.1,
        communication=lambda n: 0.0 if n == 1 else 0.2,
    )  # fmt: skip
    found = {a.point.name: a for a in analyse(study(truth)).attributions}
    parts = {p.name: p for p in found["strong-b128-n2"].parts}
    assert parts["input"].seconds.value == pytest.approx(0.01, rel=0.05)
    assert parts["communication"].seconds.value == pytest.approx(0.02, rel=0.05)
    assert parts["compute"].seconds.value == pytest.approx(0.07, rel=0.05)
    assert parts["input"].resolved
    assert parts["communication"].resolved
    plain = {p.name: p for p in found["base-b128-n1"].parts}
    assert plain["communication"].seconds is None
    assert "does not communicate" in plain["communication"].note


def test_a_negative_difference_is_kept_and_clipped_only_in_the_drawing():
    truth = Truth(strong=amdahl(0.2, 0.0), input_cost=-0.02, scatter=0.001)
    part = analyse(study(truth)).attributions[0].parts[1]
    assert part.seconds.value < 0
    assert part.drawn == 0.0
    assert not part.resolved
    assert "below resolution" in part.note


def test_without_controls_there_is_no_attribution():
    truth = Truth(strong=amdahl(0.2, 0.1), input_cost=None, communication=None)
    analysis = analyse(study(truth))
    assert analysis.attributions == ()
    assert {"input cost", "exposed communication"} <= {item.what for item in analysis.missing}


def test_accuracy_is_judged_with_what_it_could_have_seen():
    (same,) = curve_of(study(Truth(strong=amdahl(0.2, 0.1), repeats=5))).accuracy
    assert same.same
    assert 0.005 < same.detectable < 0.05
    worse = Truth(strong=amdahl(0.2, 0.1), repeats=5, accuracy=lambda n: 0.98 if n == 1 else 0.90)
    (different,) = curve_of(study(worse)).accuracy
    assert not different.same
    assert different.difference == pytest.approx(-0.08, abs=0.01)


def test_accuracy_of_flagged_runs_counts_and_of_failed_ones_does_not():
    given = frames(BOTH)
    runs = given["runs"]
    flag(given, runs["ranks"].eq(2), "unstable", "")
    fail(given, runs["ranks"].eq(1) & runs["repeat"].eq(0))
    found = {a.point.name: a for a in analyse(StudyData.of(**given)).accuracies}
    assert len(found["strong-b128-n2"].values) == 3
    assert len(found["strong-b128-n1"].values) == 2


def test_equal_accuracies_do_not_pretend_to_certainty():
    truth = Truth(strong=amdahl(0.2, 0.1), extra={"test_accuracy": 352 / 360})
    (verdict,) = curve_of(study(truth)).accuracy
    assert verdict.same
    assert verdict.low < 0 < verdict.high


def test_drift_is_seen_and_absent():
    drifting = analyse(study(Truth(strong=amdahl(0.2, 0.1), repeats=8, drift=0.1, scatter=0.005)))
    assert drifting.drift.p_value < 0.001
    assert drifting.drift.change > 0.03
    steady = analyse(study(Truth(strong=amdahl(0.2, 0.1), repeats=8, scatter=0.005)))
    assert steady.drift.p_value > 0.01
    assert analyse(study(Truth(strong=amdahl(0.2, 0.1), repeats=2))).drift is None


def test_what_was_not_measured_depends_on_the_machine():
    cpu = {item.what for item in analyse(study(BOTH)).missing}
    assert {"model FLOPs utilisation (MFU)", "the network"} <= cpu
    gpu = {item.what for item in analyse(study(Truth(**{**BOTH.__dict__, "gpu": True}))).missing}
    assert "model FLOPs utilisation (MFU)" not in gpu


def test_the_protocols_deviations_are_said():
    said = " ".join(analyse(study(BOTH)).deviations)
    assert "fewer than five valid runs (fewest: 3)" in said
    assert "less than 30 s" in said
    long = Truth(**{**BOTH.__dict__, "repeats": 6, "extra": {"train_wall_s": 40.0}})
    assert analyse(study(long)).deviations == ()
