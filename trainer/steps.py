"""One optimizer step, exact on any number of ranks and micro steps.

DistributedDataParallel averages gradients: with R ranks it applies (1/R) sum_r g_r. Each rank
therefore back-propagates the **sum** of its samples' losses times R / n, n being the samples of
the whole step, and the average becomes (1/n) sum over all samples: the gradient of the mean loss,
also when the tail of an epoch gives ranks unequal shares. A rank without a sample in a micro step
passes one stand-in sample with weight 0, so that its collectives still match.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from trainer.capture import Capture, mark_collectives
from trainer.contract import Precision, Profiler, RunSpec, Stall
from trainer.data import Batch, Normaliser, stall
from trainer.group import Group

WARMUP_SHARE = 0.15
"""Share of the steps over which the learning rate rises to its peak."""


def learning_rate(spec: RunSpec, step: int, steps: int) -> float:
    """Return the rate of *step* (from 0) of *steps*: a linear rise, then linear to zero.

    A function of the step alone, so that a resumed run needs no scheduler state.
    """
    rising = max(1.0, WARMUP_SHARE * steps)
    done = step + 1
    if done <= rising:
        return spec.learning_rate * done / rising
    return spec.learning_rate * max(0.0, (steps - step) / (steps - rising + 1))


class Stepper:
    """The network on its device with its optimizer, and the running sums of loss and hits."""

    def __init__(
        self, spec: RunSpec, network: nn.Module, group: Group, capture: Capture | None = None
    ) -> None:
        """Move *network* to the rank's device and wrap it for *group*; *capture* may watch it."""
        self.spec = spec
        self.group = group
        self.capture = capture or Capture(spec, group, Path())
        self.device = group.device
        layout = torch.channels_last if spec.channels_last else torch.contiguous_format
        # torch types `to` for tensors and modules apart; the overload with a format is untyped.
        self.network: nn.Module = network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.model = self._wrapped(self.network)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=spec.learning_rate,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=True,
        )
        scaled = spec.precision is Precision.FP16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.normalise = Normaliser(spec, self.device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        """Sum of the losses and number of right answers of this rank since the run began."""
        self._loss_sum, self._hits = self.sums[0], self.sums[1]

    def _wrapped(self, network: nn.Module) -> nn.Module:
        if not self.group.active:
            return network
        gpu = self.device.type == "cuda"
        wrapped = DistributedDataParallel(
            network,
            device_ids=[self.device.index] if gpu else None,
            bucket_cap_mb=self.spec.bucket_cap_mb,
            gradient_as_bucket_view=True,
        )
        if self.spec.profiler is Profiler.NSYS and not gpu:
            mark_collectives(wrapped, self.capture)
        return wrapped

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that runs the forward pass in the spec's precision."""
        if self.spec.precision is Precision.FP32:
            return contextlib.nullcontext()
        kinds = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
        return torch.autocast(self.device.type, dtype=kinds[self.spec.precision])

    def step(
        self,
        batches: Iterator[Batch],
        micro_steps: int,
        images: int,
        rate: float,
        *,
        sync: bool = True,
    ) -> None:
        """Train on the next *micro_steps* of *batches*: a step of *images* samples over all ranks.

        *rate* is the learning rate. Without *sync* gradients stay on their ranks (for the control
        only: parameters drift apart). Never waits for the device.
        """
        weight = self.group.place.world / images
        with self.capture.mark("step"):
            self.optimizer.zero_grad(set_to_none=True)
            for number in range(micro_steps):
                with self._synchronised(on=sync and number == micro_steps - 1):
                    self._micro_step(batches, weight)
            with self.capture.mark("optimizer"):
                for settings in self.optimizer.param_groups:
                    settings["lr"] = rate
                self.scaler.step(self.optimizer)
                self.scaler.update()

    def _synchronised(self, *, on: bool) -> AbstractContextManager[object]:
        if on or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _micro_step(self, batches: Iterator[Batch], weight: float) -> None:
        mark = self.capture.mark
        with mark("data"):
            images, labels, numbers = next(batches)
        stall(self.spec, Stall.HOST)
        stand_in = not len(numbers)
        with mark("forward"):
            if self.group.place.rank == self.group.place.world - 1:
                stall(self.spec, Stall.RANK)
            labels = labels.to(self.device, non_blocking=True)
            with self.autocast():
                logits: Tensor = self.model(self.normalise(images))
            logits = logits.float()
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            weighted = loss * (0.0 if stand_in else weight)
        with mark("backward"):
            self.scaler.scale(weighted).backward()  # type: ignore[no-untyped-call]
        if not stand_in:
            self._loss_sum.add_(loss.detach())
            self._hits.add_((logits.detach().argmax(1) == labels).sum())
