"""The kernels of a rank by name: what each costs, what limits it, whether it uses tensor cores."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trainyard.profile import counters as counters_
from trainyard.profile.model import Kind, OperatorCost
from trainyard.profile.names import normalised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainyard.profile.counters import Counters
    from trainyard.profile.model import RankTrace
    from trainyard.profile.steps import Windows

HIGH, LOW = 60.0, 40.0
"""Per cent of peak above which a resource limits a kernel, and below which it does not."""
SHORT_NS = 10_000
"""Kernels shorter than this cost the host as much to launch as the device to run."""
MANY_PER_STEP = 10
COVERED = 0.95
"""Share of the GPU's time whose kernels enter the kernel efficiency."""
LAUNCH_BOUND_SHARE = 0.5
"""Share of launches under 10 us from which a step counts as made of small kernels."""

COMPUTE, MEMORY, LATENCY, LAUNCH, MIXED, UNKNOWN = (
    "compute-bound",
    "memory-bound",
    "latency-bound",
    "launch-bound",
    "mixed",
    "unknown",
)
COUNTERS, ANALYTIC, NAMES = "counters", "analytic, counters unavailable", "counters unavailable"
_TENSOR = re.compile(
    r"tensorop|(?<![a-z])[hisq]?(884|1688|16816|16832|161616)|wgmma|hgmma|gmma|hmma|imma|bf16bf16"
    r"|f16f16|tf32f32|_s\d+_|xmma_(gemm|fprop|dgrad|wgrad)|cutlass.*(tensor|sm80|sm90|sm100)|nvjet"
    r"|flash_(fwd|bwd)|fmha",
    re.IGNORECASE,
)


@dataclass(kw_only=True, slots=True, frozen=True)
class Kernel:
    """One kernel name within the steps of one rank."""

    name: str
    """Normalised name."""
    collective: bool
    """Moves data between ranks."""
    calls: int
    """Launches."""
    total_ns: float
    """Sum of durations; streams overlap, so shares can exceed the busy time."""
    per_step: tuple[float, ...]
    """Nanoseconds in each step."""
    share: float
    """Of the durations of all kernels."""
    short: int
    """Launches under 10 us."""
    limit: str
    """compute-, memory-, latency- or launch-bound, mixed, unknown."""
    basis: str
    """counters; analytic or neither, with counters unavailable."""
    tensor: bool | None
    """Uses tensor cores: by counter, else by name; None for collectives."""
    compute_sol: float | None = None
    """Per cent of the peak of the busiest compute pipe."""
    memory_sol: float | None = None
    """Per cent of the peak of the memory system."""
    occupancy: float | None = None
    """Active warps, per cent of the most possible."""
    flops: float | None = None
    """FLOP per call: counted fp32 instructions; analytic for tensor cores and without counters."""
    bytes: float | None = None
    """DRAM bytes per call, counted or analytic (a lower bound)."""

    @property
    def mean_ns(self) -> float:
        """Mean duration."""
        return self.total_ns / self.calls

    @property
    def sol(self) -> float | None:
        """The larger of compute and memory SOL."""
        known = [value for value in (self.compute_sol, self.memory_sol) if value is not None]
        return max(known) if known else None


@dataclass(kw_only=True, slots=True, frozen=True)
class KernelTable:
    """All kernels of a rank, by total time."""

    kernels: tuple[Kernel, ...]
    """Largest total first."""
    launches_per_step: float
    """Mean kernel launches in a step."""
    short_share: float
    """Share of launches under 10 us."""
    efficiency: float | None
    """Time-weighted max(compute SOL, memory SOL), per cent, over the kernels that cover 95 % of the
    time; None without counters for all of them."""
    tensor_share: float
    """Share of compute-kernel time in kernels that use tensor cores."""


def kernel_table(
    rank: RankTrace, windows: Windows, counters: dict[str, Counters] | None = None
) -> KernelTable:
    """Return the kernels that begin in *windows*, with *counters* from Nsight Compute if given."""
    steps = len(windows.start)
    costs = {normalised(cost.name): cost for cost in rank.costs}
    kernels = [
        _judged(plain, steps, counters or {}, costs.get(plain.name))
        for plain in _plain(rank, windows)
    ]
    kernels.sort(key=lambda item: -item.total_ns)
    calls, short = sum(item.calls for item in kernels), sum(item.short for item in kernels)
    return KernelTable(
        kernels=tuple(kernels),
        launches_per_step=calls / max(1, steps),
        short_share=short / calls if calls else 0.0,
        efficiency=_efficiency(kernels),
        tensor_share=_tensor_share(kernels),
    )


def _plain(rank: RankTrace, windows: Windows) -> Iterator[Kernel]:
    """Yield what the trace alone says of every kernel name."""
    work = rank.device
    steps = len(windows.start)
    step = np.searchsorted(windows.start, work.start, side="right") - 1
    inside = (work.kind <= Kind.COLLECTIVE) & (step >= 0)
    inside &= work.start < windows.end[np.maximum(step, 0)]
    used, group = np.unique(work.name[inside], return_inverse=True)
    texts = [normalised(rank.names[number]) for number in used]
    names = list(dict.fromkeys(texts))
    index = {name: place for place, name in enumerate(names)}
    group = np.array([index[text] for text in texts], dtype=np.int64)[group]
    duration = (work.end - work.start)[inside]
    cell = group * steps + step[inside]
    per_step = np.bincount(cell, weights=duration, minlength=len(names) * steps)
    per_step = per_step.reshape(len(names), steps)
    calls = np.bincount(group, minlength=len(names))
    short = np.bincount(group, weights=duration < SHORT_NS, minlength=len(names)).astype(int)
    collective = np.zeros(len(names), dtype=bool)
    collective[group[work.kind[inside] == Kind.COLLECTIVE]] = True
    whole = float(per_step.sum())
    for place, name in enumerate(names):
        yield Kernel(
            name=name,
            collective=bool(collective[place]),
            calls=int(calls[place]),
            total_ns=float(per_step[place].sum()),
            per_step=tuple(per_step[place].tolist()),
            share=float(per_step[place].sum()) / whole if whole else 0.0,
            short=int(short[place]),
            limit=UNKNOWN,
            basis=NAMES,
            tensor=None if collective[place] else _TENSOR.search(name) is not None,
        )


def _judged(
    kernel: Kernel, steps: int, counters: dict[str, Counters], cost: OperatorCost | None
) -> Kernel:
    found = None if kernel.collective else counters_.matching(kernel.name, counters)
    small = kernel.mean_ns < SHORT_NS and kernel.calls >= MANY_PER_STEP * steps
    if found is None:
        made = replace(kernel, limit=LAUNCH if small else UNKNOWN)
        if cost is not None:
            each = (cost.flops / cost.calls, cost.bytes / cost.calls)
            made = replace(made, basis=ANALYTIC, flops=each[0], bytes=each[1])
        return made
    values = found.values
    compute, memory = values.get(counters_.COMPUTE_SOL), values.get(counters_.MEMORY_SOL)
    tensor = values.get(counters_.TENSOR)
    return replace(
        kernel,
        limit=LAUNCH if small else limit_of(compute, memory),
        basis=COUNTERS,
        tensor=kernel.tensor if tensor is None else tensor > 0,
        compute_sol=compute,
        memory_sol=memory,
        occupancy=values.get(counters_.OCCUPANCY),
        flops=_flops(values, cost),
        bytes=values.get(counters_.DRAM_BYTES),
    )


def limit_of(compute: float | None, memory: float | None) -> str:
    """Return what limits a kernel with these SOL per cents."""
    if compute is None or memory is None:
        return UNKNOWN
    if compute > HIGH and memory < LOW:
        return COMPUTE
    if memory > HIGH and compute < LOW:
        return MEMORY
    if compute < LOW and memory < LOW:
        return LATENCY
    return MIXED


def _flops(values: dict[str, float], cost: OperatorCost | None) -> float | None:
    """Return FLOP per call: counted fp32 instructions, or analytic for tensor cores.

    The instruction counters do not see the multiply-adds of tensor cores.
    """
    if values.get(counters_.TENSOR, 0.0) > 0:
        return cost.flops / cost.calls if cost is not None else None
    if counters_.FFMA not in values:
        return None
    single = values.get(counters_.FADD, 0.0) + values.get(counters_.FMUL, 0.0)
    return single + 2 * values[counters_.FFMA]


def _efficiency(kernels: list[Kernel]) -> float | None:
    """Return the time-weighted SOL over the kernels that cover 95 %, or None when one has none."""
    ranked = [kernel for kernel in kernels if not kernel.collective]
    total = sum(kernel.total_ns for kernel in ranked)
    covered, weighted = 0.0, 0.0
    for kernel in ranked:
        if covered >= COVERED * total:
            break
        if kernel.sol is None:
            return None
        covered += kernel.total_ns
        weighted += kernel.total_ns * kernel.sol
    return weighted / covered if covered else None


def _tensor_share(kernels: list[Kernel]) -> float:
    compute = [kernel for kernel in kernels if not kernel.collective]
    total = sum(kernel.total_ns for kernel in compute)
    return sum(k.total_ns for k in compute if k.tensor) / total if total else 0.0


def small_kernels(table: KernelTable) -> bool:
    """Whether most launches of a step are too short to hide their launch."""
    return table.short_share > LAUNCH_BOUND_SHARE
