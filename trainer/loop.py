"""The training loop: warm-up, timed windows, the rest; bookkeeping only at their borders."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer import usage
from trainer.checkpoint import Checkpoints
from trainer.clock import Reading, Stopwatch
from trainer.contract import Epoch, Phase, RunSpec, WindowKind
from trainer.data import Batch
from trainer.failures import LossError
from trainer.group import Group
from trainer.journal import Journal
from trainer.load import process_age
from trainer.progress import Progress
from trainer.sampler import Plan
from trainer.segments import Segment, segments
from trainer.steps import Stepper, learning_rate

VERIFY_EVERY = 16
"""Epochs whose sample counts are compared with the plan in one exchange."""


@dataclass(kw_only=True, slots=True, frozen=True)
class _EndedEpoch:
    """An epoch that is over and waits for the next border to be reduced over ranks."""

    index: int
    steps: int
    images: int
    whole: bool
    sums: Tensor
    counts: npt.NDArray[np.int32]
    begin: Any
    end: Any


class Loop:
    """Trains one run from ``progress.step`` to its planned end."""

    def __init__(
        self,
        spec: RunSpec,
        plan: Plan,
        stepper: Stepper,
        group: Group,
        journal: Journal,
        progress: Progress,
        stopwatch: Stopwatch,
        checkpoints: Checkpoints,
    ) -> None:
        """Train *stepper* by *plan*; *progress* says where to begin."""
        self._spec = spec
        self._plan = plan
        self._stepper = stepper
        self._group = group
        self._journal = journal
        self._progress = progress
        self._stopwatch = stopwatch
        self._checkpoints = checkpoints
        self._ended: list[_EndedEpoch] = []
        self._unverified: list[_EndedEpoch] = []
        self._waited_s = 0.0
        self._mark: Any = None
        self._last_total = 0.0
        self._epoch_began_at = progress.step - progress.step % plan.steps_per_epoch
        self.total_steps = planned_steps(spec, plan)
        self.readings: list[Reading] = []
        self.time_to_first_step_s = 0.0

    def run(self, batches: Iterator[Batch]) -> Iterator[Segment]:
        """Train to the end on *batches*, this rank's micro steps from here on; yield at borders.

        Raises ``LossError``, on all ranks alike, at the first border where the loss is no number.
        """
        spec, progress = self._spec, self._progress
        per_epoch = self._plan.steps_per_epoch
        self._journal.event("plan", step=progress.step, steps=self.total_steps, per_epoch=per_epoch)
        counted = self._counted(batches)
        self._last_total = sum(row[0] for row in self._group.rows(self._stepper.sums.tolist()))
        begin = time.perf_counter()
        already = progress.train_seconds
        self._mark = self._now()
        captured = self._stepper.capture.steps
        for part in segments(
            progress.step, self.total_steps, spec.warmup_steps, spec.window_steps, captured
        ):
            self._journal.enter(Phase.TRAIN if part.timed else self._untimed_phase(part))
            self._segment(part, counted)
            progress.train_seconds = already + time.perf_counter() - begin
            self._checkpoint_if_due(part)
            yield part

    def _untimed_phase(self, part: Segment) -> Phase:
        warm = part.first == (self._progress.resumed_at or 0) and self._spec.warmup_steps
        return Phase.WARMUP if warm else Phase.TRAIN

    def _segment(self, part: Segment, batches: Iterator[Batch]) -> None:
        if part.timed:
            self._stopwatch.start()
            self._waited_s = 0.0
        with self._stepper.capture.running() if part.captured else nullcontext():
            for step in range(part.first, part.last):
                self._step(step, batches)
        self._progress.step = part.last
        images = self._plan.images_between(part.first, part.last)
        if part.timed:
            index, steps = len(self._progress.windows), part.last - part.first
            reading = self._stopwatch.stop(WindowKind.TRAIN, index, steps, images, self._sums)
            self.readings.append(reading)
            rows: Sequence[Sequence[float]] = reading.carried
        else:
            reading, rows = None, self._group.rows(self._sums())
        self._border(part, reading, images, rows)

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        plan = self._plan
        rate = learning_rate(self._spec, step, self.total_steps)
        self._stepper.step(batches, plan.micro_steps(step), plan.images(step), rate)
        if not self.time_to_first_step_s:
            self._group.synchronize()  # once, before anything worth timing
            self.time_to_first_step_s = process_age()
        if plan.ends_epoch(step):
            self._end_epoch(step)

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass *batches* on and count each sample that came, whatever the sampler planned."""
        progress = self._progress
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited_s += time.perf_counter() - asked
            if batch is None:
                return
            np.add.at(progress.counts, batch[2].numpy(), 1)
            yield batch

    def _end_epoch(self, step: int) -> None:
        """Put the epoch that ends with *step* aside without waiting for the device."""
        progress, plan = self._progress, self._plan
        first = self._epoch_began_at
        images = plan.images_between(first, step + 1)
        end = self._now()
        self._ended.append(
            _EndedEpoch(
                index=plan.epoch(step),
                steps=step + 1 - first,
                images=images,
                whole=images == plan.samples,
                sums=self._stepper.sums - progress.epoch_sums,
                counts=progress.counts.copy(),
                begin=self._mark,
                end=end,
            )
        )
        progress.epoch_sums.copy_(self._stepper.sums)
        progress.counts[:] = 0
        self._mark = end
        self._epoch_began_at = step + 1

    def _now(self) -> Any:
        """A moment on the device's own clock: an event on a GPU, else seconds."""
        if self._group.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _sums(self) -> list[float]:
        """Return this rank's loss so far, then loss, hits and seconds of each ended epoch.

        A last epoch that the plan cuts short ends here, outside the timed part.
        """
        last = self._progress.step - 1
        if last + 1 == self.total_steps and not self._plan.ends_epoch(last):
            self._end_epoch(last)
        mine = [float(self._stepper.sums[0])]
        for ended in self._ended:
            mine += [*ended.sums.tolist(), self._seconds(ended)]
        return mine

    def _border(
        self,
        part: Segment,
        reading: Reading | None,
        images: int,
        rows: Sequence[Sequence[float]],
    ) -> None:
        """Record what the steps since the last border left: *rows*, the ranks' ``_sums``."""
        columns = list(zip(*rows, strict=True))
        total = sum(columns[0])
        loss = (total - self._last_total) / images
        self._last_total = total
        if not math.isfinite(loss):
            raise LossError(
                f"loss is {loss} between steps {part.first} and {part.last}: training diverged. "
                "Lower learning_rate, or choose fp32 or bf16 over fp16"
            )
        if reading is not None:
            if self._progress.first_window_loss is None:
                self._progress.first_window_loss = loss
            self._journal.add_window(
                reading.window, step=part.last, loss=loss, **self._used(reading)
            )
        for number, ended in enumerate(self._ended):
            losses, hits, seconds = columns[1 + 3 * number : 4 + 3 * number]
            self._record(ended, sum(losses), sum(hits), max(seconds))
        self._unverified += self._ended
        self._ended.clear()
        over = part.last == self.total_steps
        if over or len(self._unverified) >= VERIFY_EVERY or self._checkpoint_is_due(part):
            self._verify_epochs()

    def _used(self, reading: Reading) -> dict[str, float]:
        """Return what a window took, for whoever watches the run: nothing is judged by it."""
        mine = {"cpu_seconds": sum(reading.cpu_by_rank), "data_wait_s": self._waited_s}
        return mine | usage.now(self._group.device)

    def _record(self, ended: _EndedEpoch, loss: float, hits: float, seconds: float) -> None:
        """Keep an epoch with its sums over ranks."""
        self._journal.add_epoch(
            Epoch(
                index=ended.index,
                steps=ended.steps,
                images=ended.images,
                seconds=seconds,
                train_loss=loss / ended.images,
                train_accuracy=hits / ended.images,
            )
        )

    @staticmethod
    def _seconds(ended: _EndedEpoch) -> float:
        if isinstance(ended.end, float):
            return float(ended.end - ended.begin)
        return float(ended.begin.elapsed_time(ended.end)) / 1000  # events count in ms

    def _verify_epochs(self) -> None:
        """Check that the epochs since the last check used every sample once, in one exchange."""
        if self._unverified:
            mine = np.stack([ended.counts for ended in self._unverified])
            everyone = self._group.sum(torch.from_numpy(mine))
            for ended, counts in zip(self._unverified, everyone, strict=True):
                self._verify(ended, counts)
        self._unverified.clear()

    def _verify(self, ended: _EndedEpoch, counts: Tensor) -> None:
        """Compare how often each sample was trained, over all ranks, with the plan."""
        self._progress.verified_epochs += 1
        trained, most = int(counts.sum()), int(counts.max())
        least = int(counts.min()) if ended.whole else 0
        if trained != ended.images or most > 1 or (ended.whole and least < 1):
            self._progress.miscounts.append(
                f"epoch {ended.index}: {trained} of {ended.images} samples trained, "
                f"each {least} to {most} times"
            )

    def _checkpoint_is_due(self, part: Segment) -> bool:
        every = self._spec.checkpoint_every
        crossed = bool(every) and part.last // every > part.first // every
        return crossed and part.last < self.total_steps

    def _checkpoint_if_due(self, part: Segment) -> None:
        if self._checkpoint_is_due(part):
            self._checkpoints.save(self._stepper, self._progress)


def planned_steps(spec: RunSpec, plan: Plan) -> int:
    """Return the optimizer steps of the whole run."""
    return spec.steps or spec.epochs * plan.steps_per_epoch
