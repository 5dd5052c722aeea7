"""``Progress``: how far a run is and what it has counted; what a checkpoint carries on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainer.contract import Epoch, Window


@dataclass(kw_only=True)
class Progress:
    """The state of the training loop on one rank."""

    epoch_sums: Tensor
    """Loss sum and hits of this rank when the current epoch began."""
    counts: npt.NDArray[np.int32]
    """How often this rank has trained each sample in the current epoch."""
    windows: list[Window]
    """Timed windows so far, shared with the journal."""
    epochs: list[Epoch]
    """Epochs so far, shared with the journal."""
    step: int = 0
    """Next step."""
    first_window_loss: float | None = None
    """Mean loss per sample over the first timed window, all ranks."""
    train_seconds: float = 0.0
    """Seconds of training before this process (of the processes it continues)."""
    resumed_at: int | None = None
    """Step at which this process went on, None when it began at 0."""
    miscounts: list[str] = field(default_factory=list)
    """Epochs in which some sample was not trained exactly once."""
    verified_epochs: int = 0
    """Epochs whose counts were checked in this process."""
