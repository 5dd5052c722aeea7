"""What the micro-benchmarks of GPUs share: the GPUs that there are, and timing on one.

Times are wall times around a piece of work that ends with a synchronisation; each piece is
milliseconds and more, against which a launch of microseconds does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from trainer.machine import nvml_of
from trainer.probes.found import Place
from trainer.probes.timing import Timed, repeat


def every_gpu() -> Iterator[tuple[int, str]]:
    """Return number and name of each visible GPU, which is current until the next one."""
    for number in range(torch.cuda.device_count()):
        torch.cuda.set_device(number)
        yield number, f"gpu{number}"


def repeat_on(
    number: int, work: Callable[[], object], place: Place, *, seconds: float = 1.0
) -> tuple[Timed, str]:
    """Return the times of *work* on GPU *number*, and why they may not count.

    Quick probes take less than a third of *seconds*.
    """

    def whole() -> None:
        work()
        torch.cuda.synchronize()

    timed = repeat(whole, seconds=0.3 * seconds if place.quick else seconds)
    nvml = nvml_of(number)
    slowed = "throttled for heat or power" if nvml and nvml.throttled() else ""
    return timed, "; ".join(reason for reason in (place.foreign, slowed) if reason)
