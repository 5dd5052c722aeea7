"""The two controls: timed windows with one part of the work removed, no profiler needed.

``synthetic_input``: the batches are already on the device, so T_real - T_synthetic is what reading,
augmenting and copying the input costs. ``no_sync``: gradients stay on their ranks, so
T_sync - T_no_sync is the communication that no computation hides.

They run after training, evaluation and the parameter hash, in the same process, and replay the
very steps of the last timed windows, the smaller tail steps of an epoch included: differences are
between equal work. The learning rate is 0, so the trained parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from trainer.clock import Reading, Stopwatch
from trainer.contract import Control, RunSpec, WindowKind
from trainer.data import Batch, BatchReader, loader
from trainer.group import Group
from trainer.journal import Journal
from trainer.sampler import MicroSteps, Plan
from trainer.steps import Stepper

LEAD_IN = 2
"""Untimed steps before each control window: caches, loader workers."""


def measure(
    spec: RunSpec,
    plan: Plan,
    stepper: Stepper,
    group: Group,
    journal: Journal,
    stopwatch: Stopwatch,
    reader: BatchReader,
) -> list[Reading]:
    """Time ``control_windows`` windows of every control of *spec*, alternating between them."""
    readings = []
    for round_number, first in enumerate(replayed(spec, len(journal.windows))):
        for control in spec.controls:
            steps = MicroSteps(
                plan=plan,
                rank=group.place.rank,
                first=max(0, first - LEAD_IN),
                last=first + spec.window_steps,
            )
            batches = _batches(control, spec, steps, reader, group)
            reading = _window(control, round_number, steps, first, stepper, stopwatch, batches)
            readings.append(reading)
            journal.add_window(reading.window)
    return readings


def replayed(spec: RunSpec, windows: int) -> list[int]:
    """Return the first step of each control window: those of the last train windows, in order.

    With fewer train windows than control windows they are taken in turn; with none, the steps
    after the warm-up.
    """
    count = spec.control_windows
    last = max(1, windows)
    numbers = [last - min(count, last) + i % min(count, last) for i in range(count)]
    return [spec.warmup_steps + number * spec.window_steps for number in numbers]


def _window(
    control: Control,
    index: int,
    steps: MicroSteps,
    first: int,
    stepper: Stepper,
    stopwatch: Stopwatch,
    batches: Iterator[Batch],
) -> Reading:
    plan, sync = steps.plan, control is not Control.NO_SYNC

    def train(step: int) -> None:
        stepper.step(batches, plan.micro_steps(step), plan.images(step), 0.0, sync=sync)

    for step in range(steps.first, first):
        train(step)
    stopwatch.start()
    for step in range(first, steps.last):
        train(step)
    return stopwatch.stop(
        WindowKind(control.value),
        index,
        steps.last - first,
        plan.images_between(first, steps.last),
    )


def _batches(
    control: Control, spec: RunSpec, steps: MicroSteps, reader: BatchReader, group: Group
) -> Iterator[Batch]:
    if control is Control.NO_SYNC:
        return iter(loader(reader, steps, spec, pin_memory(spec, group)))
    return resident(steps, reader, group.device)


def resident(steps: MicroSteps, reader: BatchReader, device: torch.device) -> Iterator[Batch]:
    """Yield batches of the planned sizes cut from one full batch that lies on *device*."""
    full = np.arange(min(steps.plan.per_rank_batch, steps.plan.samples))
    images, labels, numbers = reader[0, full]
    images, labels = images.to(device), labels.to(device)
    for _, indices in steps:
        count = len(indices)
        yield images[: max(1, count)], labels[: max(1, count)], numbers[:count]


def pin_memory(spec: RunSpec, group: Group) -> bool:
    """Whether batches go through page-locked memory: asked for, and there is a GPU to copy to."""
    return spec.pin_memory and group.device.type == "cuda"
