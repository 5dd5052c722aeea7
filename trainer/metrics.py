"""The numbers of a whole run, each with its unit, from its windows, epochs and counters.

Absent where a run did not measure it. "Slowest" and "largest" mean over ranks.

- ``images_per_second`` [image/s]: images of all train windows over their seconds (slowest rank
  each), which is the harmonic mean of the windows weighted by images.
- ``step_time_s`` [s]: median over train windows of seconds / steps; ``step_time_synthetic_s`` and
  ``step_time_no_sync_s`` the same over the control windows, ``step_time_paired_s`` over those train
  windows that the controls replay: take differences between these.
- ``setup_s``, ``time_to_first_step_s`` [s]: from the process's start to the begin and the end of
  its first step, slowest rank.
- ``train_wall_s`` [s]: all steps with warm-up and bookkeeping, slowest rank.
- ``epoch_time_s`` [s]: median over whole epochs.
- ``first_window_loss`` [1]: mean loss over the first timed window, what ``loss_reference`` means.
- ``train_loss``, ``train_accuracy`` [1]: of the last epoch, while training; ``test_loss``,
  ``test_accuracy`` [1]: of the final parameters on the whole test split.
- ``peak_memory_bytes`` [B]: largest rank; CUDA's peak allocation on a GPU, else resident memory.
- ``window_cv`` [1]: see ``flags.window_cv``.
- ``rank_imbalance`` [1]: (max - min) / max over ranks of the busy time in the train windows: CPU
  seconds on a CPU (waiting for others costs none), wall seconds on a GPU.
- ``cpu_busy_cores`` [cores]: CPU seconds of all ranks over wall seconds, in the train windows.
- ``parameters`` [1], ``flops_per_image`` [FLOP]: analytic, see ``trainer.model``.
- ``mfu`` [1]: achieved over peak FLOP/s, on GPUs whose peak is in ``PEAKS``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.clock import Reading
from trainer.contract import Epoch, Metric, Precision, RunSpec, Window, WindowKind
from trainer.flags import train_windows, window_cv

# Dense peak FLOP/s from NVIDIA's data sheets (without sparsity): (16-bit tensor cores, fp32).
PEAKS = {
    "V100": (125e12, 15.7e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "H100 PCIe": (756e12, 51e12),
    "H100 80GB HBM3": (989.5e12, 67e12),
    "H200": (989.5e12, 67e12),
}


@dataclass(kw_only=True, slots=True, frozen=True)
class Totals:
    """Numbers of a run that no window holds; the largest over ranks where ranks differ."""

    setup_s: float
    time_to_first_step_s: float
    train_wall_s: float
    peak_memory_bytes: float
    parameters: int
    flops_per_image: int
    first_window_loss: float | None
    test_accuracy: float | None
    test_loss: float | None
    gpu: str
    """Name of the GPU, empty on the CPU."""


def summarise(
    spec: RunSpec,
    windows: Sequence[Window],
    epochs: Sequence[Epoch],
    readings: Sequence[Reading],
    totals: Totals,
    samples: int,
) -> tuple[Metric, ...]:
    """Return the metrics of a run of *samples* an epoch; what was not measured is absent."""
    values: list[tuple[str, float | None, str]] = [
        *_speed(windows),
        ("setup_s", totals.setup_s, "s"),
        ("time_to_first_step_s", totals.time_to_first_step_s, "s"),
        ("train_wall_s", totals.train_wall_s, "s"),
        ("epoch_time_s", _epoch_time(epochs, samples), "s"),
        ("first_window_loss", totals.first_window_loss, "1"),
        ("train_loss", epochs[-1].train_loss if epochs else None, "1"),
        ("train_accuracy", epochs[-1].train_accuracy if epochs else None, "1"),
        ("test_accuracy", totals.test_accuracy, "1"),
        ("test_loss", totals.test_loss, "1"),
        ("peak_memory_bytes", totals.peak_memory_bytes, "B"),
        *_ranks(readings, gpu=bool(totals.gpu)),
        ("parameters", totals.parameters, "1"),
        ("flops_per_image", totals.flops_per_image, "FLOP"),
        ("mfu", _mfu(spec, throughput(windows), totals), "1"),
    ]
    return tuple(
        Metric(name=name, value=float(value), unit=unit)
        for name, value, unit in values
        if value is not None
    )


def throughput(windows: Sequence[Window]) -> float | None:
    """Return images per second over all train windows."""
    timed = train_windows(windows)
    if not timed:
        return None
    return sum(window.images for window in timed) / sum(window.seconds for window in timed)


def step_time(windows: Sequence[Window]) -> float | None:
    """Return the median over *windows* of the seconds per optimizer step."""
    return statistics.median([w.seconds / w.steps for w in windows]) if windows else None


def _speed(windows: Sequence[Window]) -> list[tuple[str, float | None, str]]:
    def of(kind: WindowKind) -> list[Window]:
        return [window for window in windows if window.kind is kind]

    replayed = max(len(of(WindowKind.SYNTHETIC_INPUT)), len(of(WindowKind.NO_SYNC)))
    train = of(WindowKind.TRAIN)
    return [
        ("images_per_second", throughput(windows), "image/s"),
        ("step_time_s", step_time(train), "s"),
        ("step_time_synthetic_s", step_time(of(WindowKind.SYNTHETIC_INPUT)), "s"),
        ("step_time_no_sync_s", step_time(of(WindowKind.NO_SYNC)), "s"),
        ("step_time_paired_s", step_time(train[-replayed:]) if replayed else None, "s"),
        ("window_cv", window_cv(windows), "1"),
    ]


def _epoch_time(epochs: Sequence[Epoch], samples: int) -> float | None:
    whole = [epoch.seconds for epoch in epochs if epoch.images == samples]
    return statistics.median(whole) if whole else None


def _ranks(readings: Sequence[Reading], *, gpu: bool) -> list[tuple[str, float | None, str]]:
    if not readings:
        return []
    cpu = [sum(seconds) for seconds in zip(*(r.cpu_by_rank for r in readings), strict=True)]
    wall = [
        sum(seconds) for seconds in zip(*(r.window.seconds_by_rank for r in readings), strict=True)
    ]
    busy = wall if gpu else cpu
    slowest = sum(reading.window.seconds for reading in readings)
    imbalance = (max(busy) - min(busy)) / max(busy) if max(busy) > 0 else None
    return [("rank_imbalance", imbalance, "1"), ("cpu_busy_cores", sum(cpu) / slowest, "cores")]


def _mfu(spec: RunSpec, images_per_second: float | None, totals: Totals) -> float | None:
    """Return achieved over peak FLOP/s, for GPUs whose peak is known."""
    peaks = next((peak for name, peak in PEAKS.items() if name in totals.gpu), None)
    if peaks is None or images_per_second is None:
        return None
    peak = peaks[1] if spec.precision is Precision.FP32 else peaks[0]
    return images_per_second * totals.flops_per_image / (peak * spec.ranks)
