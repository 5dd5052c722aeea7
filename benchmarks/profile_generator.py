"""Traces with known answers: a step is written down as segments, and events are made from them.

Each segment contributes a known time to a known part, so that the truth comes from the recipe and
never from the code under test. ``profile_nsys`` and ``profile_writers`` write them as files.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

COMPUTE_STREAM, COMM_STREAM, COPY_STREAM = 7, 20, 14
LAUNCH_NS = 2_000
LEAD_NS = 6_000
"""A call that launches in time begins this long before its kernel."""

GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute"
NORM = (
    "void at::native::batch_norm_collect_statistics_channels_last_kernel<at::native::Var, "
    "c10::BFloat16, float, 4>(const T2 *, T3 *, T3 *, volatile T3 *, T3 *, int *, int, int, T3)"
)
RELU = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::"
    "launch_clamp_scalar(at::TensorIteratorBase &, c10::Scalar)::{lambda()#1}, "
    "std::array<char *, 2>>(int, T2, T3)"
)
TRITON = "triton_poi_fused_add_relu_12"
KERNELS = (GEMM, NORM, RELU, TRITON)
TRITON_PLACE = 3
COPY, SET = 2, 3
"""Kinds of device events beside 0 (compute) and 1 (collective)."""
NCCL = {
    "old": "ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)",
    "new": "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)",
}


@dataclass(frozen=True)
class Segment:
    """A stretch of a step in which one thing happens."""

    part: str
    """compute, overlap, comm, h2d, d2h, data, host, sync or queue (idle although launched)."""
    ns: int
    """How long."""
    pieces: int = 1
    """Kernels it is cut into, back to back."""


@dataclass
class Timeline:
    """What one rank did: rows of plain tuples, times in ns from the session's start."""

    device: dict[str, np.ndarray]
    calls: dict[str, np.ndarray]
    ranges: list[tuple[int, int, str]]
    names: list[str]
    steps: int
    step_ns: np.ndarray
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    """Nanoseconds of every part in every step."""


DEVICE = ("start", "end", "kind", "stream", "correlation", "name", "bytes", "copy", "source")
CALLS = ("start", "end", "correlation", "name")


def pattern(segments: list[Segment], *, nccl: str) -> tuple[list[str], dict[str, Any], int]:
    """Return names, the events of one step as columns, and its length in ns."""
    names = [*KERNELS, NCCL[nccl], "[memcpy]", "cudaLaunchKernel", "cuLaunchKernel"]
    names += ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaGraphLaunch"]
    device: list[tuple[int, ...]] = []
    calls: list[tuple[int, ...]] = []
    ranges: list[tuple[int, int, str]] = []
    now, correlation, late, early = 0, 1, False, 0

    def work(start: int, end: int, kind: int, stream: int, name: int, **more: int) -> None:
        nonlocal correlation
        launch = start - (LAUNCH_NS // 2 if late else LEAD_NS + early)
        api = {0: 7 if name == TRITON_PLACE else 6, 1: 6, 2: 8}[kind]
        calls.append((launch, launch + LAUNCH_NS // 4, correlation, api))
        columns = (more.get("bytes", -1), more.get("copy", 0), more.get("source", -1))
        device.append((start, end, kind, stream, correlation, name, *columns))
        correlation += 1

    for segment in segments:
        end = now + segment.ns
        if segment.part in {"compute", "overlap"}:
            edges = np.linspace(now, end, segment.pieces + 1).astype(np.int64).tolist()
            for place, (a, b) in enumerate(itertools.pairwise(edges)):
                work(a, b, 0, COMPUTE_STREAM, place % len(KERNELS))
                late = False
        if segment.part in {"comm", "overlap"}:
            work(now, end, 1, COMM_STREAM, len(KERNELS))
        if segment.part == "h2d":
            work(now, end, 2, COPY_STREAM, 5, bytes=segment.ns * 25, copy=1, source=0)
        if segment.part == "d2h":
            work(now, end, 2, COPY_STREAM, 5, bytes=64, copy=2, source=2)
        if segment.part == "data":
            ranges.append((now, end, "data"))
        if segment.part == "sync":
            calls.append((now, end, 0, 9))
        late = segment.part in {"data", "host", "sync"}
        early = segment.ns if segment.part == "queue" else 0
        now = end
    columns = {
        "device": np.array(device, dtype=np.int64).reshape(-1, len(DEVICE)),
        "calls": np.array(calls, dtype=np.int64).reshape(-1, len(CALLS)),
        "ranges": ranges,
        "correlations": correlation,
    }
    return names, columns, now


def timeline(
    segments: list[Segment],
    *,
    steps: int = 12,
    nccl: str = "new",
    start: int = 1_000_000,
    scale: np.ndarray | None = None,
    shift: int = 0,
) -> Timeline:
    """Return *steps* repetitions of *segments*; *scale* stretches each, *shift* delays all."""
    names, columns, length = pattern(segments, nccl=nccl)
    stretch = np.ones(steps) if scale is None else np.asarray(scale, dtype=float)
    step_ns = np.rint(length * stretch).astype(np.int64)
    base = start + shift + np.concatenate([[0], np.cumsum(step_ns)[:-1]])
    count = columns["correlations"]

    def tiled(table: np.ndarray, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
        rows = len(table)
        made = {name: np.tile(table[:, place], steps) for place, name in enumerate(fields)}
        offset, by = np.repeat(base, rows), np.repeat(stretch, rows)
        for name in ("start", "end"):
            made[name] = offset + np.rint(made[name] * by).astype(np.int64)
        bump = np.repeat(np.arange(steps) * count, rows)
        made["correlation"] = np.where(made["correlation"] > 0, made["correlation"] + bump, 0)
        return made

    end = int(base[-1] + step_ns[-1])
    return Timeline(
        device=_followed(tiled(columns["device"], DEVICE), DEVICE, end, steps * count),
        calls=_followed(tiled(columns["calls"], CALLS), CALLS, end, steps * count),
        ranges=_ranges(columns["ranges"], base, step_ns, stretch),
        names=names,
        steps=steps,
        step_ns=step_ns,
        truth={part: total * stretch for part, total in truth(segments).items()},
    )


def _ranges(
    inside: list[tuple[int, int, str]], base: np.ndarray, step_ns: np.ndarray, stretch: np.ndarray
) -> list[tuple[int, int, str]]:
    """Return the range of every step and, stretched with it, those *inside* a step."""
    made = []
    for step, (begin, length, by) in enumerate(zip(base, step_ns, stretch, strict=True)):
        made.append((int(begin), int(begin + length), f"step {step}"))
        made += [(int(begin + round(a * by)), int(begin + round(b * by)), n) for a, b, n in inside]
    return made


def _followed(
    table: dict[str, np.ndarray], fields: tuple[str, ...], end: int, correlation: int
) -> dict[str, np.ndarray]:
    """Append the first kernel of the step after the last: training went on."""
    row = {"start": end, "end": end + 5_000, "kind": 0, "stream": COMPUTE_STREAM, "name": 0}
    row |= {"correlation": correlation, "bytes": -1, "copy": 0, "source": -1}
    if "kind" not in fields:
        row |= {"start": end - 1, "end": end, "name": 6}
    return {name: np.append(table[name], row[name]) for name in fields}


def truth(segments: list[Segment]) -> dict[str, float]:
    """Return what a perfect analysis says of one step, in ns, by the formulas' names."""
    of = {part: float(sum(s.ns for s in segments if s.part == part)) for part in PARTS}
    compute = of["compute"] + of["overlap"]
    communication = of["comm"] + of["overlap"]
    idle = of["data"] + of["host"] + of["sync"] + of["queue"]
    return {
        "window": sum(of.values()),
        "compute": compute,
        "communication": communication,
        "overlapped": of["overlap"],
        "exposed_comm": of["comm"],
        "exposed_h2d": of["h2d"],
        "other_copies": of["d2h"],
        "busy": compute + of["comm"] + of["h2d"] + of["d2h"],
        "idle": idle,
        "data": of["data"],
        "sync": of["sync"],
        "host": of["host"],
        "unexplained": of["queue"],
    }


def host_timeline(
    phases: dict[str, int], *, steps: int = 12, collective: int = 0, start: int = 1_000_000
) -> Timeline:
    """Return a rank without a GPU: *phases* in order by length in ns, "" for time in no phase.

    The last *collective* nanoseconds of backward are a collective within it.
    """
    ranges: list[tuple[int, int, str]] = []
    length = sum(phases.values())
    for step in range(steps):
        now = start + step * length
        ranges.append((now, now + length, f"step {step}"))
        for name, ns in phases.items():
            if name:
                ranges.append((now, now + ns, name))
            if name == "backward" and collective:
                ranges.append((now + ns - collective, now + ns, "collective"))
            now += ns
    nothing = np.empty(0, dtype=np.int64)
    return Timeline(
        device=dict.fromkeys(DEVICE, nothing),
        calls=dict.fromkeys(CALLS, nothing),
        ranges=ranges,
        names=["nothing"],
        steps=steps,
        step_ns=np.full(steps, length),
    )


PARTS = ("compute", "overlap", "comm", "h2d", "d2h", "data", "host", "sync", "queue")
US, MS = 1_000, 1_000_000

CASES: dict[str, list[Segment]] = {
    "compute bound": [Segment("compute", 9_500 * US, 40), Segment("host", 300 * US)],
    "communication bound": [
        Segment("compute", 4 * MS, 20),
        Segment("overlap", 2 * MS, 8),
        Segment("comm", 3 * MS),
        Segment("compute", MS, 4),
    ],
    "input bound": [
        Segment("data", 4 * MS),
        Segment("h2d", 800 * US),
        Segment("compute", 5 * MS, 25),
    ],
    "host bound": [
        part
        for _ in range(30)
        for part in (Segment("compute", 60 * US, 8), Segment("host", 90 * US))
    ],
    "synchronising": [
        part
        for _ in range(6)
        for part in (
            Segment("compute", 900 * US, 5),
            Segment("d2h", 20 * US),
            Segment("sync", 250 * US),
        )
    ],
    "everything": [
        Segment("data", 700 * US),
        Segment("h2d", 300 * US),
        Segment("compute", 3 * MS, 17),
        Segment("queue", 90 * US),
        Segment("overlap", 1_500 * US, 9),
        Segment("comm", 900 * US),
        Segment("host", 650 * US),
        Segment("compute", 800 * US, 3),
        Segment("d2h", 40 * US),
        Segment("sync", 120 * US),
    ],
    "one rank without collectives": [Segment("compute", 5 * MS, 10), Segment("host", 200 * US)],
}


def shifted(made: Timeline, by: int) -> Timeline:
    """Return *made* begun *by* nanoseconds later."""
    device = {**made.device, "start": made.device["start"] + by, "end": made.device["end"] + by}
    calls = {**made.calls, "start": made.calls["start"] + by, "end": made.calls["end"] + by}
    ranges = [(low + by, high + by, name) for low, high, name in made.ranges]
    return replace(made, device=device, calls=calls, ranges=ranges)
