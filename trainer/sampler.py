"""Which rank trains which samples in which step: every sample exactly once an epoch.

The order of an epoch is a permutation that all ranks draw alike from (seed, epoch). Step s of the
epoch takes the next ``global_batch`` samples of it, whatever the number of ranks: strong scaling
therefore trains on the same batches at every N. Each rank takes a contiguous part of the step.

**The tail.** When the data set is no multiple of the global batch, the last step of an epoch is
smaller, neither dropped nor filled up with repeated samples. Its samples are spread evenly (ranks
differ by at most one, lower ranks take more); a rank that gets none still takes part in the
step's collectives with a sample of weight 0. The gradient is exact, since every sample is weighted
by 1 / (samples in the step), not by 1 / (samples on its rank): see ``trainer.steps``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(kw_only=True, slots=True)
class Plan:
    """The order of a whole run as a pure function of step and rank; sampler state is the step."""

    samples: int
    """Samples in the training set."""
    per_rank_batch: int
    """Most samples a rank takes in one micro step."""
    ranks: int
    accumulation: int = 1
    """Micro steps of a full step."""
    seed: int = 0
    _cached: tuple[int, Indices] | None = field(default=None, repr=False, compare=False)

    @property
    def global_batch(self) -> int:
        """Samples of a full step over all ranks."""
        return self.per_rank_batch * self.ranks * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch, the smaller last one included."""
        return -(-self.samples // self.global_batch)

    def epoch(self, step: int) -> int:
        """Epoch that *step* (from 0, over the whole run) belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether *step* is the last of its epoch."""
        return (step + 1) % self.steps_per_epoch == 0

    def images(self, step: int) -> int:
        """Samples of *step* over all ranks."""
        begin = (step % self.steps_per_epoch) * self.global_batch
        return min(self.global_batch, self.samples - begin)

    def images_between(self, first: int, last: int) -> int:
        """Samples of the steps from *first* up to and without *last*, over all ranks."""
        return sum(self.images(step) for step in range(first, last))

    def micro_steps(self, step: int) -> int:
        """Micro steps of *step*: the same on every rank, so that collectives stay matched."""
        largest_share = -(-self.images(step) // self.ranks)
        return -(-largest_share // self.per_rank_batch)

    def order(self, epoch: int) -> Indices:
        """Return the permutation of the training set that *epoch* follows, equal on all ranks."""
        if self._cached is None or self._cached[0] != epoch:
            made = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
            self._cached = (epoch, made)
        return self._cached[1]

    def share(self, step: int, rank: int) -> list[Indices]:
        """Return what *rank* trains in *step*, one array per micro step; some may be empty."""
        begin = (step % self.steps_per_epoch) * self.global_batch
        least, extra = divmod(self.images(step), self.ranks)
        begin += rank * least + min(rank, extra)
        mine = self.order(self.epoch(step))[begin : begin + least + (rank < extra)]
        size = self.per_rank_batch
        return [mine[i * size : (i + 1) * size] for i in range(self.micro_steps(step))]


@dataclass(kw_only=True, slots=True, frozen=True)
class MicroSteps:
    """Sampler for a DataLoader: yields (epoch, indices) per micro step of one rank."""

    plan: Plan
    rank: int
    first: int
    """First step, so that a resumed run goes on where it stopped."""
    last: int
    """Step to stop before."""

    def __iter__(self) -> Iterator[tuple[int, Indices]]:
        """Yield every micro step of the steps in order."""
        for step in range(self.first, self.last):
            epoch = self.plan.epoch(step)
            for indices in self.plan.share(step, self.rank):
                yield epoch, indices

    def __len__(self) -> int:
        """Number of micro steps."""
        return sum(self.plan.micro_steps(step) for step in range(self.first, self.last))


def evaluation_share(samples: int, rank: int, ranks: int) -> range:
    """Return the test samples *rank* evaluates: contiguous, disjoint, together all of them."""
    return range(samples * rank // ranks, samples * (rank + 1) // ranks)
