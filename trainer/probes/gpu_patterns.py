"""A Triton kernel that copies 2^BITS floats, reading them in order, strided or at random.

Where an element is read follows from arithmetic in the kernel, so no index moves through memory.
Each pattern is a permutation: every element is read once, whatever the caches hold. Import it only
where there is a GPU: triton is a wheel for Linux, and compiles with the machine's C compiler.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from trainer.probes.occupancy import WARP, Grid

PATTERNS = {"in_order": 0, "strided": 1, "random": 2}
STRIDE_BITS = 5
"""A stride of 32 floats: each lane of a warp reads a cache line of its own, 128 bytes."""
_PER_THREAD = 4
"""Floats of a thread and turn: one load of 16 bytes when they are in order."""


# Triton would look names in the annotations of tensors up as the kernel's, so they have none.
@triton.jit  # type: ignore[untyped-decorator]
def copy_by_pattern(  # type: ignore[no-untyped-def]  # noqa: ANN201
    source,  # noqa: ANN001
    target,  # noqa: ANN001
    BITS: tl.constexpr,  # noqa: N803 - constants of the compilation
    PATTERN: tl.constexpr,  # noqa: N803
    STRIDE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Copy *source* to *target*; programs take turns, BLOCK elements at a time."""
    lanes = tl.arange(0, BLOCK)
    step = tl.num_programs(0) * BLOCK
    for start in range(tl.program_id(0) * BLOCK, 1 << BITS, step):
        place = tl.multiple_of(start, BLOCK) + lanes
        index = place
        if PATTERN == 1:  # down the columns of a matrix with 2^STRIDE columns
            rows = BITS - STRIDE
            index = ((place & ((1 << rows) - 1)) << STRIDE) | (place >> rows)
        if PATTERN == 2:  # noqa: PLR2004
            # Odd factors and shifted XORs map the numbers below 2^BITS onto themselves.
            mixed = place.to(tl.uint32)
            mixed = mixed ^ (mixed >> (BITS // 2))
            mixed = (mixed * 0x2C1B3C6D) & ((1 << BITS) - 1)
            mixed = mixed ^ (mixed >> (BITS // 2))
            mixed = (mixed * 0x297A2D39) & ((1 << BITS) - 1)
            index = mixed ^ (mixed >> (BITS // 2))
        tl.store(target + place, tl.load(source + index))


def launch(
    source: torch.Tensor, target: torch.Tensor, pattern: str, grid: Grid, multiprocessors: int
) -> Any:
    """Copy *source* to *target*, both of 2^k floats, k from 10 to 30; return the compiled kernel.

    The grid has ``grid.programs`` programs for each of the *multiprocessors*.
    """
    bits = source.numel().bit_length() - 1
    return copy_by_pattern[(grid.programs * multiprocessors,)](
        source,
        target,
        BITS=bits,
        PATTERN=PATTERNS[pattern],
        STRIDE=STRIDE_BITS,
        BLOCK=_PER_THREAD * WARP * grid.warps,
        num_warps=grid.warps,
    )
