"""Analytic work of kernels from the shapes of the operators that launched them.

The fallback where hardware counters may not be read: floating-point operations and operand bytes of
matrix products and convolutions, from torch.profiler's ``record_shapes``. Bytes count each operand
once, so they are a lower bound, and arithmetic intensity an upper one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from trainyard.profile.model import OperatorCost

if TYPE_CHECKING:
    from trainyard.profile.readers.torch_file import Event

_BYTES = {
    "float": 4,
    "double": 8,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "signed char": 1,
    "unsigned char": 1,
    "long int": 8,
    "int": 4,
}
Shape = list[int]


def operator_costs(operators: list[Event], kernels: list[Event]) -> tuple[OperatorCost, ...]:
    """Return the work of each kernel name whose operators have known shapes.

    Kernels and operators share an ``External id``. Where one operator launched several kernels, its
    work goes to the longest of them.
    """
    work = {}
    for event in operators:
        if event.args is None or event.args.external is None or not bytes(event.args.dims):
            continue
        cost = cost_of(event.name, event.args.dims, event.args.types)
        if cost is not None:
            work[event.args.external] = cost
    if not work:
        return ()
    longest: dict[Any, Event] = {}
    for event in kernels:
        key = event.args.external if event.args else None
        if key in work and (key not in longest or event.dur > longest[key].dur):
            longest[key] = event
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for key, event in longest.items():
        flops, size = work[key]
        total = sums[event.name]
        total[0] += flops
        total[1] += size
        total[2] += 1
    return tuple(
        OperatorCost(name=name, flops=flops, bytes=size, calls=int(calls))
        for name, (flops, size, calls) in sums.items()
    )


def cost_of(name: str, dims: msgspec.Raw, types: msgspec.Raw) -> tuple[float, float] | None:
    """Return FLOP and bytes of one call of operator *name*, or None when it is not known."""
    count = _FORMULAS.get(name)
    if count is None:
        return None
    try:
        shapes = msgspec.json.decode(dims)
        kinds = msgspec.json.decode(types) if bytes(types) else []
        flops, result = count(shapes)
    except (msgspec.DecodeError, TypeError, ValueError, IndexError, KeyError):
        return None
    width = _BYTES.get(kinds[0] if kinds else "", 4)
    tensors = [s for s in shapes if isinstance(s, list) and s and isinstance(s[0], int)]
    size = width * (sum(math.prod(s) for s in tensors) + result)
    return float(flops), float(size)


def _mm(shapes: list[Shape]) -> tuple[int, int]:
    """2 m k n (torch.utils.flop_counter)."""
    (m, k), (inner, n) = shapes[0], shapes[1]
    if k != inner:
        raise ValueError(f"{shapes[:2]} do not multiply")
    return 2 * m * k * n, m * n


def _bmm(shapes: list[Shape]) -> tuple[int, int]:
    batch = shapes[0][0]
    flops, result = _mm([shapes[0][1:], shapes[1][1:]])
    return batch * flops, batch * result


def _convolution(shapes: list[Shape]) -> tuple[int, int]:
    """2 x weights per output x outputs, for stride 1 and "same" padding: an upper bound else."""
    images, weight = shapes[0], shapes[1]
    outputs = images[0] * weight[0] * math.prod(images[2:])
    return 2 * outputs * math.prod(weight[1:]), outputs


_FORMULAS = {
    "aten::mm": _mm,
    "aten::addmm": lambda shapes: _mm(shapes[1:]),
    "aten::bmm": _bmm,
    "aten::baddbmm": lambda shapes: _bmm(shapes[1:]),
    "aten::cudnn_convolution": _convolution,
}
