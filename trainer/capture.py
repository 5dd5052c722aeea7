"""A profiler around the last steps of a run, and the named ranges it shows.

The last ``profile_steps`` steps are captured and not timed, so the timed windows before them are
those of a run that no profiler has touched yet (``torch``), or that ran under one which was not
collecting (``nsys``, ``ncu``). ``torch.profiler`` runs inside the process and writes one trace per
rank; Nsight runs around the process and is told here when to begin and to end.

Ranges, all per rank: ``step`` holds ``data`` (waiting for a batch), ``forward`` (with the copy to
the device and the loss), ``backward`` and ``optimizer``; ``collective`` is one gradient bucket on
its way, from the call to the result, beside ``backward``. Under nsys on CPUs ``backward`` ends with
the last gradient, and ``wait for gradients`` is what the stepping thread then waits for buckets.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trainer.contract import Profiler, RunSpec
from trainer.failures import BadInputError, ProfileError
from trainer.group import Group

DOMAIN = "trainyard"
"""NVTX domain of the ranges."""
CAPTURE_RANGE = "capture"
"""NVTX range around the captured steps: what ``nsys --capture-range=nvtx`` waits for."""

WAIT = "wait for gradients"
"""NVTX range of a stepping thread that has nothing to do before its buckets are there."""

Mark = Callable[[str], AbstractContextManager[object]]
_SILENCE: AbstractContextManager[None] = contextlib.nullcontext()


def silent(_name: str) -> AbstractContextManager[None]:
    """Mark nothing: what every step outside a capture does."""
    return _SILENCE


class Capture:
    """The profiler of one rank; does nothing when the spec names none."""

    def __init__(self, spec: RunSpec, group: Group, folder: Path) -> None:
        """Capture this rank of *group* into *folder* by the spec's profiler."""
        self._spec = spec
        self._group = group
        self._folder = folder
        self.mark: Mark = silent
        """Opens a named range; silent outside the captured steps."""

    @property
    def steps(self) -> int:
        """Steps at the end of the run that are captured; 0 without a profiler."""
        return 0 if self._spec.profiler is Profiler.NONE else self._spec.profile_steps

    def check(self, total_steps: int) -> None:
        """Raise ``BadInputError`` when the run is too short for a steady captured part."""
        least = self._spec.warmup_steps + self.steps
        if self.steps and total_steps < least:
            raise BadInputError(
                f"profile_steps = {self.steps}: the run has {total_steps} steps and needs {least}, "
                f"the {self._spec.warmup_steps} of its warm-up included. Give more steps or epochs"
            )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Profile what happens inside, and leave the rank's file complete or not at all.

        Raises ``ProfileError`` when the profiler collected nothing or its file cannot be written.
        """
        self._group.synchronize()
        self._group.barrier()
        inside = self._torch if self._spec.profiler is Profiler.TORCH else self._nsight
        try:
            with inside():
                yield
                self._group.synchronize()
        finally:
            self.mark = silent

    @contextlib.contextmanager
    def _torch(self) -> Iterator[None]:
        from torch import profiler

        kinds = [profiler.ProfilerActivity.CPU]
        if self._group.device.type == "cuda":
            kinds.append(profiler.ProfilerActivity.CUDA)
        with profiler.profile(activities=kinds) as found:
            self.mark = profiler.record_function
            yield
            self._group.synchronize()
        self._write(found)

    def _write(self, found: Any) -> None:
        path = self._folder / f"rank{self._group.place.rank}.pt.trace.json"
        partial = path.with_suffix(".partial")
        packed = path.with_name(f"{path.name}.gz")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found.export_chrome_trace(str(partial))
            with partial.open("rb") as source, gzip.open(f"{packed}.partial", "wb", 3) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            Path(f"{packed}.partial").replace(packed)
        except (OSError, RuntimeError) as error:
            raise ProfileError(
                f"{packed}: the trace could not be written ({error}). Free space in the run's "
                "folder, or capture fewer profile_steps"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
            Path(f"{packed}.partial").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _nsight(self) -> Iterator[None]:
        import nvtx  # type: ignore[import-untyped]

        def mark(name: str) -> AbstractContextManager[object]:
            made: AbstractContextManager[object] = nvtx.annotate(name, domain=DOMAIN)
            return made

        gpu = self._group.device.type == "cuda"
        if gpu:
            torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
        with nvtx.annotate(CAPTURE_RANGE, domain=DOMAIN):
            self.mark = mark
            yield
        if gpu:
            torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


def mark_collectives(model: DistributedDataParallel, capture: Capture) -> None:
    """Show each gradient bucket of *model* as a ``collective`` range under Nsight on CPUs.

    Same arithmetic as DDP's own: divide by the ranks, then sum. The range ends on gloo's thread
    when the bucket's result is there, so it holds the wait for slower ranks and the transfer, be it
    hidden by the rest of the backward pass or not. What is not hidden is seen by ``WAIT``: DDP
    waits for its buckets inside ``backward()``, in a callback at the end of the pass. One queued
    before that, with the first bucket, is called before it.
    Elsewhere collectives show by themselves: NCCL's kernels, torch's ``gloo:all_reduce``.
    """
    import nvtx
    from torch._C._distributed_c10d import GradBucket

    engine: Any = torch.autograd.Variable._execution_engine

    def reduce(_state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        shown = None
        if capture.mark is not silent:
            shown = nvtx.start_range("collective", domain=DOMAIN)
            if bucket.index() == 0:
                engine.queue_callback(_backward_is_computed)
        buffer = bucket.buffer().div_(dist.get_world_size())
        work = dist.all_reduce(buffer, async_op=True)
        future: torch.futures.Future[Any] = work.get_future()

        def finished(done: torch.futures.Future[Any]) -> torch.Tensor:
            if shown is not None:
                nvtx.end_range(shown)
            result: torch.Tensor = done.value()[0]
            return result

        return future.then(finished)

    # DDP looks for the classes themselves; annotations kept as text are unknown to it.
    reduce.__annotations__.clear()
    model.register_comm_hook(None, reduce)


def _backward_is_computed() -> None:
    """Close ``backward``, the innermost range; the new one is closed in its place."""
    import nvtx

    nvtx.pop_range(domain=DOMAIN)
    nvtx.push_range(WAIT, domain=DOMAIN)
