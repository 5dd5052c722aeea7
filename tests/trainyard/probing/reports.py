"""Reports of nodes as probes would write them, with whatever a test changes."""

from __future__ import annotations

from dataclasses import replace

from trainer.contract import Fact, Measurement, ProbeReport, Problem

FACTS = {
    "os.kernel": "6.1.0-28",
    "cpu.model": "AMD EPYC 9575F",
    "cpu.sockets": "1",
    "cpu.cores": "4",
    "cpu.threads": "8",
    "numa.node0": "0-3",
    "numa.node1": "4-7",
    "cache.L3": "32768K shared by 0-3",
    "memory.total": "131072",
    "gpu.driver": "570.86.15",
    "gpu0.model": "NVIDIA H200",
    "gpu0.uuid": "GPU-1",
    "gpu0.nvlinks": "18 of 18",
    "gpu0.pcie_generation_max": "5",
    "gpu0.pcie_width_max": "16",
    "gpu1.model": "NVIDIA H200",
    "gpu0.path_to_gpu1": "one host bridge",
    "operator.matmul_fp32": "runs",
}


def measurement(name="memory.triad", value=4e10, unit="B/s", *, share=0.01, **options):
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        low=value * (1 - share),
        high=value * (1 + share),
        repeats=7,
        limit_source="unknown",
        **options,
    )


MEASUREMENTS = (
    measurement(),
    measurement("cpu.matmul_fp32", 1e11, "FLOP/s", limit=2e11, ratio=0.5),
    measurement("gpu0.copy", 4.1e12, "B/s", valid=False, why="gpu0 is used by pid 4711"),
    measurement("gloo.2_ranks.point_to_point", 5e-5, "s"),
)


def report(node="n1", facts=None, measurements=MEASUREMENTS, **options):
    made = ProbeReport(
        node=node,
        started_at="2026-11-22T02:00:00+00:00",
        seconds=12.5,
        facts=tuple(
            Fact(name=name, value=value, source="/sys")
            for name, value in (FACTS | (facts or {})).items()
        ),
        measurements=tuple(measurements),
        problems=(Problem(probe="time", what="the clock is not synchronised", fix="chrony"),),
    )
    return replace(made, **options)
