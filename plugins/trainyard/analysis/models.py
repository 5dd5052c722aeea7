"""The scaling laws, each as time per step relative to a free scale T(1) or in seconds.

Sources: Amdahl (AFIPS 1967); Gustafson (CACM 31(5), 1988); Gunther's Universal Scalability Law
(Guerrilla Capacity Planning, 2007); the floor model T(N) = max(h, aB/N + b) + c(N), in which h is
the time a step costs the host however small the batch, and c(N) the measured exposed communication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainyard.analysis.selection import STRONG, WEAK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Law = Callable[[Array, Array], Array]


@dataclass(kw_only=True, slots=True, frozen=True)
class Parameter:
    """One free number of a law."""

    symbol: str
    """Symbol in the formula."""
    meaning: str
    """What it is."""
    unit: str
    """Unit, 1 for a share."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Model:
    """One law for one scaling mode."""

    name: str
    """Name a reader knows."""
    mode: str
    """strong or weak."""
    formula: str
    """The law, for people."""
    parameters: tuple[Parameter, ...]
    """Free numbers; the first is always the scale T(1) in seconds."""
    relative: Law
    """(ranks, shares) -> T(N) / T(1); shares are the parameters after the scale."""
    start: tuple[float, ...]
    """Where the search for the shares begins."""


_SCALE = Parameter(symbol="T(1)", meaning="time per step of one rank", unit="s")
_SERIAL = Parameter(symbol="s", meaning="serial fraction", unit="1")
_CONTENTION = Parameter(symbol="σ", meaning="contention", unit="1")
_COHERENCY = Parameter(symbol="κ", meaning="coherency (pairwise) cost", unit="1")


def _amdahl(ranks: Array, shares: Array) -> Array:
    times: Array = shares[0] + (1 - shares[0]) / ranks
    return times


def _gustafson(ranks: Array, shares: Array) -> Array:
    times: Array = ranks / (shares[0] + (1 - shares[0]) * ranks)
    return times


def _usl_strong(ranks: Array, shares: Array) -> Array:
    times: Array = (1 + shares[0] * (ranks - 1) + shares[1] * ranks * (ranks - 1)) / ranks
    return times


def _usl_weak(ranks: Array, shares: Array) -> Array:
    return _usl_strong(ranks, shares) * ranks


MODELS = (
    Model(
        name="Amdahl",
        mode=STRONG,
        formula="T(N) = T(1) · (s + (1 − s) / N)",
        parameters=(_SCALE, _SERIAL),
        relative=_amdahl,
        start=(0.05,),
    ),
    Model(
        name="Gustafson",
        mode=WEAK,
        formula="T(N) = T(1) · N / (s + (1 − s) · N)",
        parameters=(_SCALE, _SERIAL),
        relative=_gustafson,
        start=(0.05,),
    ),
    Model(
        name="Universal Scalability Law",
        mode=STRONG,
        formula="T(N) = T(1) · (1 + σ(N − 1) + κN(N − 1)) / N",
        parameters=(_SCALE, _CONTENTION, _COHERENCY),
        relative=_usl_strong,
        start=(0.05, 0.001),
    ),
    Model(
        name="Universal Scalability Law",
        mode=WEAK,
        formula="T(N) = T(1) · (1 + σ(N − 1) + κN(N − 1))",
        parameters=(_SCALE, _CONTENTION, _COHERENCY),
        relative=_usl_weak,
        start=(0.05, 0.001),
    ),
)

FLOOR = "Host floor"
FLOOR_FORMULA = "T(N) = max(h, a·B/N + b) + c(N), c(N) measured"
FLOOR_PARAMETERS = (
    Parameter(symbol="a", meaning="time per sample", unit="s"),
    Parameter(symbol="b", meaning="time per step that no rank saves", unit="s"),
    Parameter(symbol="h", meaning="least time of a step", unit="s"),
)
