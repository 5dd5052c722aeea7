"""The controls that need no profiler, as a run's metrics hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True, frozen=True)
class Controls:
    """Seconds per step with and without one part of the work, from an unprofiled run."""

    step_s: float
    """Over the train windows that the controls replay."""
    synthetic_s: float | None = None
    """With batches that are already on the device."""
    no_sync_s: float | None = None
    """With gradients that stay on their ranks."""

    @property
    def input_share(self) -> float | None:
        """Share of the step that reading, augmenting and copying the input costs."""
        return None if self.synthetic_s is None else 1 - self.synthetic_s / self.step_s

    @property
    def communication_share(self) -> float | None:
        """Share of the step that exposed communication costs."""
        return None if self.no_sync_s is None else 1 - self.no_sync_s / self.step_s


def controls_of(metrics: Mapping[str, float]) -> Controls | None:
    """Return the controls among a run's *metrics* by name, or None when it measured none.

    Differences are taken from ``step_time_paired_s``, the windows that the controls replay; from
    ``step_time_s`` in records of runs that lack it.
    """
    step = metrics.get("step_time_paired_s", metrics.get("step_time_s"))
    synthetic = metrics.get("step_time_synthetic_s")
    no_sync = metrics.get("step_time_no_sync_s")
    if step is None or not step > 0 or (synthetic is None and no_sync is None):
        return None
    return Controls(step_s=step, synthetic_s=synthetic, no_sync_s=no_sync)
