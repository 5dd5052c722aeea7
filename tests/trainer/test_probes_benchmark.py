"""How `make bench-profile` holds the probes against native benchmarks beside them."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks import profile_probes
from benchmarks.profile_probes import compared, matmul_ratios, triad_ratios

NATIVE = {"stream_mem_avx": 50.0, "stream_avx": 40.0, "stream": 38.0}


def test_a_triad_is_held_against_the_kernel_that_stores_alike():
    rounds = [({"memory.triad": 36.0, "memory.triad_streaming": 49.0}, NATIVE)] * 3
    made = triad_ratios(rounds)
    assert made["triad_vs_stream"] == pytest.approx([0.98] * 3)
    assert made["triad_torch_vs_stream"] == pytest.approx([0.9] * 3)


def test_without_a_compiler_torchs_triad_is_held_against_the_best():
    made = triad_ratios([({"memory.triad": 36.0}, NATIVE)])
    assert made["triad_vs_stream"] == pytest.approx([0.72])


def test_one_lucky_run_does_not_choose_the_counterpart():
    lucky = NATIVE | {"stream": 90.0}
    rounds = [({"memory.triad": 36.0}, native) for native in (NATIVE, lucky, NATIVE)]
    assert triad_ratios(rounds)["triad_vs_stream"] == pytest.approx([0.72] * 3)


def test_the_best_product_counts_and_torchs_is_told_beside_it():
    reached = {"cpu.matmul_fp32": 5.0, "cpu.matmul_fp32_numpy": 9.0, "cpu.matmul_bf16": 99.0}
    assert matmul_ratios([(reached, {"openblas": 10.0})]) == {
        "matmul_vs_openblas": [0.9],
        "matmul_torch_vs_openblas": [0.5],
    }


def test_disturbed_rounds_are_made_again_for_a_while(monkeypatch, tmp_path):
    natives, busy = iter(range(101, 200)), iter([True, False, True, False])

    def native():
        return {"x": float(next(natives))}

    monkeypatch.setattr(profile_probes, "alone", lambda native: (native(), 0.0))
    monkeypatch.setattr(profile_probes, "probes", lambda *_: ({"y": 1.0}, next(busy)))
    made, disturbed = compared(tmp_path, "memory", native, 2)
    assert disturbed == 2
    assert made == [({"y": 1.0}, {"x": 103.5}), ({"y": 1.0}, {"x": 107.5})], "mean of both sides"
    monkeypatch.setattr(profile_probes, "probes", lambda *_: ({"y": 1.0}, True))
    assert compared(tmp_path, "memory", native, 3) == ([], 6)
    monkeypatch.setattr(profile_probes, "probes", lambda *_: ({"y": 1.0}, False))
    monkeypatch.setattr(profile_probes, "alone", lambda native: (native(), 0.2))
    assert compared(tmp_path, "memory", native, 1) == ([], 2), "the native side was disturbed"


def test_a_machine_that_changed_meanwhile_makes_no_round(monkeypatch, tmp_path):
    natives = iter([50.0, 60.0, 50.0, 56.0])
    monkeypatch.setattr(profile_probes, "alone", lambda _: ({"x": next(natives)}, 0.0))
    monkeypatch.setattr(profile_probes, "probes", lambda *_: ({"y": 1.0}, False))
    made, disturbed = compared(tmp_path, "memory", dict, 1)
    assert (made, disturbed) == ([({"y": 1.0}, {"x": 53.0})], 1)


def test_what_others_use_beside_a_native_run_is_its_foreign_share(monkeypatch):
    seen = iter([0.0, 3.0])  # busy seconds of all cores, before and after
    monkeypatch.setattr(profile_probes, "busy_seconds", lambda text, cores: next(seen))
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    reached, share = profile_probes.alone(lambda: {"x": 1.0})
    assert reached == {"x": 1.0}
    assert share == pytest.approx(3 / 2 / 2)
