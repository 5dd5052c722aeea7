"""How many warps of a kernel are on a multiprocessor (SM) at a time. Arithmetic alone.

Occupancy is active warps per SM over the most that the device can hold. The sweep bounds it by its
grid: a whole number of programs per SM, each of which goes through many blocks of data, so that no
further program waits for a place. The GPU spreads so few programs evenly over its SMs.
"""

from __future__ import annotations

from dataclasses import dataclass

FRACTIONS = {6: 1 / 16, 12: 1 / 8, 25: 1 / 4, 50: 1 / 2, 100: 1.0}
"""By the percentage in a measurement's name, cut to a whole number."""
WARP = 32
MOST_REGISTERS = 255
"""Registers that a thread has at most, on every architecture since Kepler."""
_WARPS = (4, 2, 1)
_REGISTER_UNIT = 256  # registers are given to a warp in such portions,
_WARP_UNIT = 4  # and to the four schedulers of an SM alike


@dataclass(kw_only=True, slots=True, frozen=True)
class Grid:
    """Programs of a launch, for each SM."""

    warps: int
    """Warps of a program."""
    programs: int
    """Programs on each SM."""

    @property
    def resident(self) -> int:
        """Warps on each SM."""
        return self.warps * self.programs


def grid_of(fraction: float, most_warps: int) -> Grid:
    """Return the programs that fill *fraction* of the *most_warps* of an SM.

    Programs have four warps where that divides; then there are at most 16 on an SM, which every
    architecture since Volta holds (CUDA C++ programming guide, compute capabilities). Raises
    ``ValueError`` where the fraction is less than a warp.
    """
    wanted = round(fraction * most_warps)
    if wanted < 1:
        raise ValueError(f"{fraction:g} of {most_warps} warps: less than one")
    warps = next(warps for warps in _WARPS if wanted % warps == 0)
    return Grid(warps=warps, programs=wanted // warps)


def warps_by_registers(per_thread: int, registers: int) -> int:
    """Return the warps that an SM with *registers* can hold when each thread has *per_thread*.

    As NVIDIA's occupancy calculator counts for compute capability 7.0 and later.
    """
    per_warp = -(-per_thread * WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    return registers // per_warp // _WARP_UNIT * _WARP_UNIT
