"""Checkpoints: all a run needs to go on as if it had never stopped, written in one step.

A checkpoint holds parameters, optimizer and scaler, the next step (the whole state of the sampler,
see ``trainer.sampler``), each rank's random state, running sums and sample counts, and the windows
and epochs so far. Written at the first window end at or after a multiple of ``checkpoint_every``,
outside the timed part. The newest two are kept.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from trainer.contract import Epoch, RunSpec, Window, decode, encode
from trainer.failures import CheckpointError
from trainer.files import write_atomic
from trainer.group import Group
from trainer.progress import Progress
from trainer.steps import Stepper

KEPT = 2
_NAME = re.compile(r"step-(\d{10})\.pt")


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, spec: RunSpec, group: Group) -> None:
        """Keep them in *folder*, bound to *spec*."""
        self._folder = folder
        self._spec = spec
        self._group = group

    def newest(self) -> list[Path]:
        """Return the complete checkpoints, newest first."""
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, reverse=True)

    def save(self, stepper: Stepper, progress: Progress) -> None:
        """Write the state before ``progress.step``; every rank calls it, rank 0 writes."""
        ranks = self._group.objects(_rank_state(stepper, progress))
        if not self._group.place.first:
            return
        state = {
            "spec_id": self._spec.spec_id,
            "step": progress.step,
            "model": stepper.network.state_dict(),
            "optimizer": stepper.optimizer.state_dict(),
            "scaler": stepper.scaler.state_dict(),
            "ranks": ranks,
            "windows": [encode(window) for window in progress.windows],
            "epochs": [encode(epoch) for epoch in progress.epochs],
            "first_window_loss": progress.first_window_loss,
            "train_seconds": progress.train_seconds,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._folder.mkdir(exist_ok=True)
        write_atomic(self._folder / f"step-{progress.step:010d}.pt", buffer.getvalue())
        for old in self.newest()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self, stepper: Stepper, progress: Progress) -> bool:
        """Continue from the newest checkpoint, in place; return whether there was one.

        Raises ``CheckpointError`` when it cannot be read or belongs to another spec.
        """
        paths = self._group.objects([str(path) for path in self.newest()])[0]
        if not paths:
            return False
        state = self._read(Path(paths[0]))
        stepper.network.load_state_dict(state["model"])
        stepper.optimizer.load_state_dict(state["optimizer"])
        stepper.scaler.load_state_dict(state["scaler"])
        _restore_rank(stepper, progress, state["ranks"][self._group.place.rank])
        progress.step = state["step"]
        progress.windows[:] = [decode(Window, window) for window in state["windows"]]
        progress.epochs[:] = [decode(Epoch, epoch) for epoch in state["epochs"]]
        progress.first_window_loss = state["first_window_loss"]
        progress.train_seconds = state["train_seconds"]
        progress.resumed_at = progress.step
        return True

    def _read(self, path: Path) -> dict[str, Any]:
        again = f"Remove {path.parent} to start from the beginning"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}). {again}") from error
        if state.get("spec_id") != self._spec.spec_id:
            raise CheckpointError(
                f"{path}: belongs to spec {state.get('spec_id')}, not to {self._spec.spec_id}. "
                f"{again}, or use another run folder"
            )
        return state


def _rank_state(stepper: Stepper, progress: Progress) -> dict[str, Any]:
    cuda = stepper.device.type == "cuda"
    return {
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(stepper.device) if cuda else None,
        "sums": stepper.sums.cpu(),
        "epoch_sums": progress.epoch_sums.cpu(),
        "counts": torch.from_numpy(progress.counts.copy()),
    }


def _restore_rank(stepper: Stepper, progress: Progress, state: dict[str, Any]) -> None:
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], stepper.device)
    stepper.sums.copy_(state["sums"])
    progress.epoch_sums.copy_(state["epoch_sums"])
    progress.counts[:] = state["counts"].numpy()
