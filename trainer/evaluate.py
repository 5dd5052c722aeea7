"""Accuracy on the test split, exact on any number of ranks; and the identity of the parameters."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trainer.data import Split
from trainer.group import Group
from trainer.sampler import evaluation_share
from trainer.steps import Stepper

BATCH = 256
"""Samples evaluated at once on a rank; the result does not depend on it."""


def settle(stepper: Stepper, group: Group) -> None:
    """Give every rank the buffers of rank 0, as DistributedDataParallel does before each step.

    Only batch-norm statistics are buffers here: each rank updates its own in the last step.
    """
    group.copy_from_first(list(stepper.network.buffers()))


def evaluate(stepper: Stepper, split: Split, group: Group) -> tuple[float, float]:
    """Return (accuracy, mean loss) over the whole *split*: each sample counted exactly once.

    Ranks take disjoint contiguous parts; only sums of float64 cross the group.
    """
    share = evaluation_share(len(split), group.place.rank, group.place.world)
    sums = torch.zeros(3, dtype=torch.float64, device=group.device)
    network = stepper.network
    network.eval()
    with torch.inference_mode():
        for begin in range(share.start, share.stop, BATCH):
            indices = np.arange(begin, min(begin + BATCH, share.stop))
            images = torch.from_numpy(np.ascontiguousarray(split.images[indices]))
            labels = torch.from_numpy(split.labels[indices]).to(group.device)
            with stepper.autocast():
                logits = network(stepper.normalise(images))
            logits = logits.float()
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(1) == labels).sum()
            sums[2] += len(labels)
    network.train()
    loss, hits, count = group.sum(sums).tolist()
    return hits / count, loss / count


def parameter_hash(network: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers: names, types, shapes and bytes."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        hasher.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        hasher.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
