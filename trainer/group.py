"""``Group``: what ranks tell each other. With one process and no group, every answer is its own."""

from __future__ import annotations

import datetime as dt
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.contract import Device, Precision, RunSpec
from trainer.failures import BadInputError
from trainer.place import Place


def choose_device(spec: RunSpec, place: Place) -> torch.device:
    """Return the device of this rank: GPU ``local_rank`` or the CPU.

    ``auto`` takes GPUs when the node has one for each of its ranks. Raises ``BadInputError`` when
    the spec insists on what the node lacks.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = spec.device
    if wanted is Device.CUDA and present <= place.local_rank:
        raise BadInputError(
            f"device = 'cuda': rank {place.rank} needs GPU {place.local_rank} and the node shows "
            f"{present}. Lower ranks_per_node or set device = 'auto'"
        )
    use_gpu = wanted is Device.CUDA or (wanted is Device.AUTO and present >= place.local_world)
    if spec.precision is Precision.FP16 and not use_gpu:
        raise BadInputError(
            "precision = 'fp16' needs a GPU and this run is on the CPU. Choose fp32 or bf16"
        )
    if not use_gpu:
        return torch.device("cpu")
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


class Group:
    """The collectives of one run, on NCCL for GPUs and gloo for CPUs."""

    def __init__(self, spec: RunSpec, place: Place, device: torch.device) -> None:
        """Join the other ranks; raises when one does not come within ``collective_timeout_s``."""
        self.place = place
        self.device = device
        self.backend = "none"
        if not spec.distributed:
            return
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        options: dict[str, Any] = {
            "backend": self.backend,
            "timeout": dt.timedelta(seconds=spec.collective_timeout_s),
        }
        if device.type == "cuda":
            options["device_id"] = device
        if not place.launched:  # one rank typed by hand: no rendezvous needed
            store = dist.HashStore()  # type: ignore[attr-defined]
            options |= {"store": store, "rank": 0, "world_size": 1}
        dist.init_process_group(**options)

    @property
    def active(self) -> bool:
        """Whether there is a process group (also with one rank)."""
        return self.backend != "none"

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.active:
            ids = [self.place.local_rank] if self.device.type == "cuda" else None
            dist.barrier(device_ids=ids)

    def synchronize(self) -> None:
        """Wait until the device has done all it was given; the CPU always has."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum of *values* over all ranks, on the CPU."""
        mine = values.to(self.device, copy=True)
        if self.active:
            dist.all_reduce(mine)
        return mine.cpu()

    def rows(self, values: list[float]) -> list[list[float]]:
        """Return every rank's *values*, in rank order."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        if not self.active:
            return [values]
        parts = [torch.empty_like(mine) for _ in range(self.place.world)]
        dist.all_gather(parts, mine)
        rows: list[list[float]] = torch.stack(parts).tolist()
        return rows

    def objects(self, mine: Any) -> list[Any]:
        """Return every rank's object, in rank order; for set-up and checkpoints, not for steps."""
        if not self.active:
            return [mine]
        everyone: list[Any] = [None] * self.place.world
        dist.all_gather_object(everyone, mine)
        return everyone

    def copy_from_first(self, tensors: list[Tensor]) -> None:
        """Overwrite *tensors* on every rank with those of rank 0."""
        if self.active:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def close(self) -> None:
        """Leave the group; only after success, since leaving a broken group can block."""
        if self.active:
            dist.destroy_process_group()
