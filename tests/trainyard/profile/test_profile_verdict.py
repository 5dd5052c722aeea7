"""Kernels, verdict, controls, suggestions and comparison, on traces whose answer is planned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.profile_generator import CASES, GEMM, MS, NORM, RELU, TRITON, US, Segment, timeline
from benchmarks.profile_nsys import Schema, write_nsys
from benchmarks.profile_writers import write_ncu, write_torch
from trainer.contract import Dataset, Precision, RunSpec
from trainyard.errors import ProfileError
from trainyard.profile import kernels as k
from trainyard.profile.analysis import analyse
from trainyard.profile.compare import compare
from trainyard.profile.controls import Controls, controls_of
from trainyard.profile.names import base_name, is_collective, normalised
from trainyard.profile.readers import read_trace
from trainyard.profile.readers.ncu import read_ncu
from trainyard.profile.result import Bound
from trainyard.profile.shares import mean_over_steps, ratio_over_steps

JITTER = 1 + 0.1 * np.random.default_rng(3).random(12)


def spec(**changes):
    return RunSpec(
        **{"name": "p", "dataset": Dataset.SYNTHETIC, "steps": 100, "pin_memory": True} | changes
    )


def profile(tmp_path, segments, *, name="r0.sqlite", **options):
    path = write_nsys(tmp_path / name, timeline(segments, scale=JITTER))
    return analyse(read_trace([path]), **options)


def fields(found):
    return [(item.field, item.current, item.proposed) for item in found.verdict.suggestions]


class TestShares:
    def test_a_ratio_of_sums_with_an_interval_that_covers(self):
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(200):
            window = 10 + rng.normal(0, 0.5, 20)
            found = ratio_over_steps(0.3 * window + rng.normal(0, 0.4, 20), window)
            hits += found.contains(0.3)
        assert hits > 0.85 * 200

    def test_few_steps_take_students_t_and_one_none(self):
        assert mean_over_steps(np.array([1.0])).low is None
        few = mean_over_steps(np.array([1.0, 2.0, 3.0]))
        assert few.method == "t"
        assert few.high - few.value == pytest.approx(4.303 * 1 / 3**0.5, rel=1e-3)

    def test_unknown_stays_unknown(self):
        assert ratio_over_steps(np.array([1.0, np.nan]), np.ones(2)) is None
        assert ratio_over_steps(np.zeros(3), np.zeros(3)) is None


class TestKernels:
    ROWS = (
        (GEMM, (100.0, 85.0, 30.0, 20.0, 5.0, 50.0, 60.0)),
        (NORM, (100.0, 20.0, 88.0, 80.0, 90.0, 70.0, 0.0)),
        (RELU, (100.0, 15.0, 25.0, 22.0, 40.0, 80.0, 0.0)),
        (TRITON, (100.0, 50.0, 70.0, 60.0, 60.0, 75.0, 0.0)),
    )

    def table(self, tmp_path, rows):
        path = write_ncu(tmp_path / "k.csv", rows)
        found = profile(tmp_path, CASES["compute bound"], counters=read_ncu(path))
        return found.ranks[0].kernels

    def test_limits_by_speed_of_light(self, tmp_path):
        table = self.table(tmp_path, list(self.ROWS))
        limits = {kernel.name: kernel.limit for kernel in table.kernels}
        assert limits == {
            normalised(GEMM): k.COMPUTE,
            normalised(NORM): k.MEMORY,
            normalised(RELU): k.LATENCY,
            normalised(TRITON): k.MIXED,
        }
        assert {kernel.calls for kernel in table.kernels} == {120}
        assert [kernel.tensor for kernel in table.kernels].count(True) == 1
        # All four take a quarter of the time, all are needed for 95 %.
        assert table.efficiency == pytest.approx((85 + 88 + 25 + 70) / 4, rel=0.01)
        assert table.tensor_share == pytest.approx(0.25, rel=0.01)
        assert sum(kernel.share for kernel in table.kernels) == pytest.approx(1)

    def test_one_kernel_without_counters_leaves_the_efficiency_unknown(self, tmp_path):
        table = self.table(tmp_path, list(self.ROWS[:3]))
        assert table.efficiency is None
        bases = {kernel.name: kernel.basis for kernel in table.kernels}
        assert bases[TRITON] == "counters unavailable"

    def test_many_short_kernels_are_launch_bound(self, tmp_path):
        table = profile(tmp_path, CASES["host bound"]).ranks[0].kernels
        assert table.short_share == 1
        assert {kernel.limit for kernel in table.kernels} == {k.LAUNCH}

    @pytest.mark.parametrize(
        ("compute", "memory", "limit"),
        [(61, 39, k.COMPUTE), (39, 61, k.MEMORY), (39, 39, k.LATENCY), (61, 61, k.MIXED),
         (50, 20, k.MIXED), (None, 50, k.UNKNOWN)],
    )  # fmt: skip
    def test_thresholds(self, compute, memory, limit):
        assert k.limit_of(compute, memory) == limit

    @pytest.mark.parametrize(
        ("name", "collective"),
        [
            ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", True),
            ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", True),
            ("ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)", True),
            (GEMM, False),
            ("void my_nccl_like_gemm()", False),
        ],
    )
    def test_collective_names(self, name, collective):
        assert is_collective(name) is collective

    def test_names_that_read_alike_in_two_profiles(self):
        one = "void at::native::(anonymous namespace)::k<4, {lambda(float)#1}>(int, float*)"
        two = "at::native::<unnamed>::k<4,  {lambda(float)#7}>(int, float *)"
        assert normalised(one).replace("  ", " ") == normalised(two).replace("  ", " ")
        assert base_name(one) == "k"
        assert normalised("f<a, b>(int)") != normalised("f<a, c>(int)")
        assert normalised("f<(int)4>(x)") == "f<(int)4>"


class TestAnalyticFallback:
    def test_operator_shapes_give_flop_and_bytes(self, tmp_path):
        import json

        made = timeline([Segment("compute", MS, 1)], steps=3)
        path = write_torch(tmp_path / "rank0.json", made)
        trace = json.loads(path.read_text())
        trace["traceEvents"] += [
            {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "tid": 1, "ts": 1, "dur": 1,
             "args": {"External id": number, "Input Dims": [[64, 128], [128, 32]],
                      "Input type": ["c10::BFloat16", "c10::BFloat16"]}}
            for number in (1, 2, 3)
        ]  # fmt: skip
        path.write_text(json.dumps(trace))
        [kernel] = analyse(read_trace([path])).ranks[0].kernels.kernels
        assert kernel.basis == "analytic, counters unavailable"
        assert kernel.flops == 2 * 64 * 128 * 32
        assert kernel.bytes == 2 * (64 * 128 + 128 * 32 + 64 * 32)


class TestVerdict:
    def test_a_fraction_just_at_its_threshold_says_so(self, tmp_path):
        rng = np.random.default_rng(1)
        made = timeline([Segment("data", 500 * US), Segment("compute", 9_500 * US, 9)])
        # Steps differ in how long they wait: 5 % on average.
        wait = np.rint(rng.normal(0, 250 * US, 12)).astype(int)
        made.ranges[:] = [
            (low, high + int(wait[place // 2] if name == "data" else 0), name)
            for place, (low, high, name) in enumerate(made.ranges)
        ]
        found = analyse(read_trace([write_nsys(tmp_path / "r0.sqlite", made)]))
        [finding] = [item for item in found.verdict.findings if item.name == "data wait"]
        assert "its interval holds the threshold" in finding.text

    def test_the_largest_recoverable_times_come_first(self, tmp_path):
        found = profile(tmp_path, CASES["everything"])
        stretch = float(JITTER.mean())
        assert [
            (item.name, round(item.ms.value / stretch, 3)) for item in found.verdict.recoverable
        ] == [
            ("exposed transfer", 0.9),
            ("waiting for data", 0.7),
            ("late launches", 0.65),
        ]

    def test_controls_that_agree_and_that_do_not(self, tmp_path):
        good = Controls(step_s=0.0098, synthetic_s=0.005, no_sync_s=0.0097)
        found = profile(tmp_path, CASES["input bound"], controls=good).verdict
        assert [check.agrees for check in found.controls] == [True, True]
        assert found.controls_bound is Bound.INPUT
        bad = Controls(step_s=0.0098, synthetic_s=0.0097)
        found = profile(tmp_path, CASES["input bound"], controls=bad).verdict
        assert [check.agrees for check in found.controls] == [False]
        assert found.controls_bound is None
        assert found.findings[0].name == "profile and control disagree on input"
        assert "trust the control" in found.findings[0].text

    def test_controls_come_from_the_windows_that_they_replay(self):
        metrics = {"step_time_s": 9.0, "step_time_paired_s": 10.0, "step_time_synthetic_s": 8.0}
        assert controls_of(metrics).input_share == pytest.approx(0.2)
        assert controls_of(metrics).communication_share is None
        assert controls_of({"step_time_s": 9.0}) is None

    def test_suggestions_name_real_fields_and_new_values_only(self, tmp_path):
        known = {field.name for field in dataclasses.fields(RunSpec)} | {""}
        for segments in CASES.values():
            for given in (None, spec(), spec(precision=Precision.BF16, channels_last=True)):
                for item in profile(tmp_path, segments, spec=given).verdict.suggestions:
                    assert item.field in known
                    assert item.current != item.proposed or not item.field

    def test_what_to_try_depends_on_the_class(self, tmp_path):
        unpinned = spec(pin_memory=False, loader_workers=2)
        assert fields(profile(tmp_path, CASES["input bound"], spec=unpinned)) == [
            ("pin_memory", "false", "true"),
            ("loader_workers", "2", "4"),
            ("prefetch_factor", "2", "4"),
        ]
        many = spec(loader_workers=32)
        assert "loader_workers" not in [
            field for field, *_ in fields(profile(tmp_path, CASES["input bound"], spec=many))
        ], "fewer of them are no remedy"
        assert ("per_rank_batch", "64", "128") in fields(
            profile(tmp_path, CASES["host bound"], spec=spec())
        )
        tuned = spec(precision=Precision.BF16, channels_last=True)
        assert fields(profile(tmp_path, CASES["compute bound"], spec=tuned)) == [
            ("deterministic", "true", "false")
        ]

    def test_one_late_exchange_asks_for_smaller_buckets(self, tmp_path):
        segments = [Segment("compute", 5 * MS, 10), Segment("comm", 2 * MS)]
        paths = [write_nsys(tmp_path / f"r{n}.sqlite", timeline(segments)) for n in range(2)]
        found = analyse(read_trace(paths), spec=spec(ranks=2, global_batch=128))
        assert ("bucket_cap_mb", "25", "6") in fields(found)
        assert found.verdict.slow_rank is None


class TestComparison:
    def test_what_changed_is_ranked_by_time_lost(self, tmp_path):
        before = profile(tmp_path, [Segment("compute", 4 * MS, 8), Segment("comm", MS)])
        after = profile(
            tmp_path,
            [Segment("compute", 4 * MS, 8), Segment("comm", 3 * MS), Segment("host", 500 * US)],
            name="after.sqlite",
        )
        found = compare(before, after)
        stretch = float(JITTER.mean())
        assert found.step.lost.value / stretch == pytest.approx(2.5, rel=0.01)
        assert found.parts[0].name == "exposed communication"
        assert found.parts[0].lost.value / stretch == pytest.approx(2, rel=0.01)
        assert found.parts[0].resolved
        assert found.parts[1].name == "late launches"
        assert found.kernels[0].kind == "collective"
        assert sum(item.lost.value for item in found.parts) == pytest.approx(found.step.lost.value)
        unchanged = [item for item in found.kernels if item.kind == "kernel"]
        assert unchanged
        assert not any(item.resolved for item in unchanged)

    def test_kernels_join_by_normalised_name_and_new_ones_count_in_full(self, tmp_path):
        before = profile(tmp_path, CASES["compute bound"])
        after = profile(tmp_path, CASES["communication bound"], name="after.sqlite")
        found = compare(before, after)
        names = [item.name for item in found.kernels]
        assert len(names) == len(set(names)) == 5
        [new] = [item for item in found.kernels if item.before_ms == 0]
        assert new.kind == "collective"
        assert new.lost.value == pytest.approx(new.after_ms)

    def test_unlike_profiles_are_refused(self, tmp_path):
        one = profile(tmp_path, CASES["compute bound"])
        paths = [
            write_nsys(tmp_path / f"r{n}.sqlite", timeline(CASES["compute bound"])) for n in (1, 2)
        ]
        with pytest.raises(ProfileError, match="1 and 2 ranks"):
            compare(one, analyse(read_trace(paths)))
        assert Schema().utc
