"""One run from its spec to its result, phase by phase. Failures are raised; the caller records."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trainer import controls, evaluate, flags, machine, metrics, model
from trainer.capture import Capture
from trainer.checkpoint import Checkpoints
from trainer.checks import verdicts
from trainer.clock import Stopwatch
from trainer.contract import Phase, RunResult, RunSpec, Status
from trainer.data import Batch, BatchReader, Data, load, loader
from trainer.group import Group, choose_device
from trainer.journal import Journal
from trainer.load import Signals, process_age
from trainer.loop import Loop, planned_steps
from trainer.progress import Progress
from trainer.sampler import MicroSteps, Plan
from trainer.steps import Stepper


def execute(spec: RunSpec, journal: Journal, data_folder: Path | None) -> RunResult:
    """Run *spec* on this rank and return the result, complete on rank 0 (written by the caller).

    Raises whatever ends the run: ``RunError``, out of memory, a lost rank.
    """
    journal.enter(Phase.SETUP)
    device = choose_device(spec, journal.place)
    prepare_torch(spec, device)
    group = Group(spec, journal.place, device)
    journal.backend, journal.device = group.backend, device.type
    _describe_machines(journal, group)
    journal.enter(Phase.DATA)
    data = load(spec, data_folder)
    result = Run(spec, journal, group, data).execute()
    group.close()
    return result


def prepare_torch(spec: RunSpec, device: torch.device) -> None:
    """Set what is global in torch: threads, determinism, true fp32."""
    torch.set_num_threads(spec.threads_per_rank)
    torch.manual_seed(spec.seed)
    if spec.deterministic:
        # Not use_deterministic_algorithms(True): the same switch, but it imports the compiler.
        torch.set_deterministic_debug_mode("error")
        # A debugging aid that comes with it and writes all fresh memory once more: not needed.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        # cuDNN would by default round fp32 convolutions to TF32: fp32 here means fp32.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = not spec.deterministic


def _describe_machines(journal: Journal, group: Group) -> None:
    """Note every node once, in node order: what local rank 0 of each found."""
    place, gpus = journal.place, group.device.type == "cuda"
    mine = machine.describe(gpus=gpus) if place.local_rank == 0 else None
    journal.machines = tuple(found for found in group.objects(mine) if found is not None)


class Run:
    """The parts of one run, made once, used by the phases."""

    def __init__(self, spec: RunSpec, journal: Journal, group: Group, data: Data) -> None:
        """Build the network from the seed and everything that trains it."""
        self.spec, self.journal, self.group, self.data = spec, journal, group, data
        network = model.build(spec.model, data.channels, data.classes, spec.seed)
        self.parameters = model.parameter_count(network)
        self.flops = model.training_flops(network, data.channels)
        capture = Capture(spec, group, journal.run_dir / "profiles")
        self.stepper = Stepper(spec, network, group, capture)
        self.plan = Plan(
            samples=len(data.train),
            per_rank_batch=spec.per_rank_batch,
            ranks=spec.ranks,
            accumulation=spec.accumulation,
            seed=spec.seed,
        )
        self.progress = Progress(
            epoch_sums=torch.zeros_like(self.stepper.sums),
            counts=np.zeros(len(data.train), dtype=np.int32),
            windows=journal.windows,
            epochs=journal.epochs,
        )
        capture.check(planned_steps(spec, self.plan))
        gpu = group.device.type == "cuda"
        nvml = machine.nvml_of(group.device.index or 0) if gpu else None
        self.stopwatch = Stopwatch(group, Signals(nvml))
        self.reader = BatchReader(data.train, spec)
        self.checkpoints = Checkpoints(journal.run_dir / "checkpoints", spec, group)

    def execute(self) -> RunResult:
        """Train, evaluate, measure the controls, judge."""
        spec, journal, progress = self.spec, self.journal, self.progress
        if spec.checkpoint_every and self.checkpoints.load(self.stepper, progress):
            journal.write_csv()  # without the epochs that are now trained again
        loop = self._train()
        journal.enter(Phase.EVALUATE)
        evaluate.settle(self.stepper, self.group)
        accuracy = loss = None
        if spec.evaluate:
            accuracy, loss = evaluate.evaluate(self.stepper, self.data.test, self.group)
            journal.epochs[-1] = dataclasses.replace(journal.epochs[-1], test_accuracy=accuracy)
        digest = evaluate.parameter_hash(self.stepper.network)
        judged = self.group.objects((digest, all_finite(self.stepper.network)))
        memory = float(self._peak_memory())  # before the controls add their own
        if spec.controls:
            journal.enter(Phase.CONTROL)
            controls.measure(
                spec, self.plan, self.stepper, self.group, journal, self.stopwatch, self.reader
            )
        totals = self._totals(loop, memory, accuracy, loss)
        checks = verdicts(
            spec, progress, loop.total_steps, [one[0] for one in judged], [one[1] for one in judged]
        )
        return dataclasses.replace(self._result(loop, totals), sanity=checks, parameter_hash=digest)

    def _train(self) -> Loop:
        loop, batches = self.loop(), self.batches()
        self.setup_s = process_age()
        for _ in loop.run(batches):
            pass
        return loop

    def loop(self) -> Loop:
        """Return the training loop of this run, at its present step."""
        return Loop(
            self.spec,
            self.plan,
            self.stepper,
            self.group,
            self.journal,
            self.progress,
            self.stopwatch,
            self.checkpoints,
        )

    def batches(self) -> Iterator[Batch]:
        """Return this rank's micro steps from the present step to the planned end."""
        spec, group = self.spec, self.group
        steps = MicroSteps(
            plan=self.plan,
            rank=group.place.rank,
            first=self.progress.step,
            last=planned_steps(spec, self.plan),
        )
        return iter(loader(self.reader, steps, spec, controls.pin_memory(spec, group)))

    def _totals(
        self, loop: Loop, memory: float, accuracy: float | None, loss: float | None
    ) -> metrics.Totals:
        mine = [self.setup_s, loop.time_to_first_step_s, self.progress.train_seconds, memory]
        setup, first, wall, peak = (
            max(column) for column in zip(*self.group.rows(mine), strict=True)
        )
        gpus = self.journal.machines[0].gpus if self.journal.machines else ()
        return metrics.Totals(
            setup_s=setup,
            time_to_first_step_s=first,
            train_wall_s=wall,
            peak_memory_bytes=peak,
            parameters=self.parameters,
            flops_per_image=self.flops,
            first_window_loss=self.progress.first_window_loss,
            test_accuracy=accuracy,
            test_loss=loss,
            gpu=gpus[0].name if gpus else "",
        )

    def _result(self, loop: Loop, totals: metrics.Totals) -> RunResult:
        spec, journal = self.spec, self.journal
        evidence = flags.Evidence(
            spec=spec,
            device=self.group.device.type,
            machines=journal.machines,
            windows=tuple(journal.windows),
            readings=tuple(loop.readings),
            resumed_at=self.progress.resumed_at,
        )
        found = flags.raised(evidence)
        for flag, detail in found:
            journal.event("flag", name=flag.value, detail=detail)
        journal.enter(Phase.FINISHED)
        return RunResult(
            run_id=journal.run_dir.name,
            spec_id=spec.spec_id,
            status=Status.COMPLETED,
            phase=Phase.FINISHED,
            flags=tuple(flag for flag, _ in found),
            flag_details=tuple(detail for _, detail in found),
            metrics=metrics.summarise(
                spec, journal.windows, journal.epochs, loop.readings, totals, self.plan.samples
            ),
            windows=tuple(journal.windows),
            epochs=tuple(journal.epochs),
            machines=journal.machines,
            provenance=journal.provenance(),
        )

    def _peak_memory(self) -> int:
        if self.group.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.group.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def all_finite(network: nn.Module) -> bool:
    """Whether no parameter and no buffer holds NaN or infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
