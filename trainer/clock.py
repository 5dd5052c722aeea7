"""Timed windows: a barrier, K steps, one synchronisation, the slowest rank's time.

Windows run across epoch borders. Cutting them there would lose the rest of every epoch (digits
has 23 steps an epoch at batch 64) and hide what a border costs; instead nothing happens at a
border that would wait: an epoch's sums stay on the device and are reduced, printed and stored at
the next window end, outside the timed part. The steps after the last full window are trained and
not timed. Inside a window nothing synchronises with the device and nothing is read back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from trainer.contract import Window, WindowKind
from trainer.group import Group
from trainer.load import LoadMeter, Signals


@dataclass(kw_only=True, slots=True, frozen=True)
class Reading:
    """One timed window with what the ranks noticed meanwhile."""

    window: Window
    cpu_by_rank: tuple[float, ...]
    """CPU seconds of each rank, its loader workers included."""
    clock_mhz: tuple[float, ...]
    """Clock of each rank's device right after the window, 0 where it cannot be read."""
    throttled: bool
    """A GPU reported that it slowed down for heat or power."""
    carried: tuple[tuple[float, ...], ...] = ()
    """What each rank sent along with its times."""


class Stopwatch:
    """Times windows on all ranks alike; every rank must call it at the same steps."""

    def __init__(self, group: Group, signals: Signals) -> None:
        """Time the ranks of *group*; *signals* reads device clocks."""
        self._group = group
        self._signals = signals
        self._load = LoadMeter()
        self._begin = 0.0

    def start(self) -> None:
        """Begin a window on all ranks together."""
        self._group.synchronize()
        self._group.barrier()
        self._load.start()
        self._begin = time.perf_counter()

    def stop(
        self,
        kind: WindowKind,
        index: int,
        steps: int,
        images: int,
        carry: Callable[[], list[float]] = list,
    ) -> Reading:
        """End the window of *steps* and *images* (over all ranks), and gather it from all ranks.

        *carry* is called once the time is taken; what it returns travels in the same exchange,
        since on two CPU ranks an exchange of a few bytes costs as much as one of a megabyte.
        """
        self._group.synchronize()
        seconds = time.perf_counter() - self._begin
        busy, own = self._load.stop()
        mhz, throttled = self._signals.read()
        mine = [seconds, own, busy, mhz, float(throttled)]
        rows = self._group.rows([*mine, *carry()])
        window = Window(
            kind=kind,
            index=index,
            steps=steps,
            images=images,
            seconds_by_rank=tuple(row[0] for row in rows),
            foreign_load=self._foreign_load(rows),
        )
        return Reading(
            window=window,
            cpu_by_rank=tuple(row[1] for row in rows),
            clock_mhz=tuple(row[3] for row in rows),
            throttled=any(row[4] for row in rows),
            carried=tuple(tuple(row[len(mine) :]) for row in rows),
        )

    def _foreign_load(self, rows: list[list[float]]) -> float:
        """Cores busy with others on the worst node: all busy time there less its ranks' own."""
        size = self._group.place.local_world
        worst = 0.0
        for first in range(0, len(rows), size):
            node = rows[first : first + size]
            foreign = node[0][2] - sum(row[1] for row in node)
            worst = max(worst, foreign / max(row[0] for row in node))
        return worst
