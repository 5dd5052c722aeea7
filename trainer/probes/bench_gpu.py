"""Matrix products, copies, access patterns, transfers and launches on each visible GPU.

Times are wall times around a piece of work that ends with a synchronisation; each piece is tens of
milliseconds, against which a launch of microseconds does not count. Nothing is measured where
there is no GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

from trainer.machine import nvml_of
from trainer.metrics import PEAKS
from trainer.probes.found import Found, Place
from trainer.probes.timing import Limit, Timed, duration, rate, repeat

_KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MEMORY = 2
_LAUNCHES = 2000
_PCIE_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""Bytes/s of a PCIe lane in one direction after line coding (PCI-SIG base specifications)."""


def _gpus() -> Iterator[tuple[int, str]]:
    for number in range(torch.cuda.device_count()):
        torch.cuda.set_device(number)
        yield number, f"gpu{number}"


def _repeat(number: int, work: Callable[[], object], place: Place) -> tuple[Timed, str]:
    """Return the times of *work* on GPU *number*, and why they may not count."""

    def whole() -> None:
        work()
        torch.cuda.synchronize()

    timed = repeat(whole, seconds=0.3 if place.quick else 1.0)
    nvml = nvml_of(number)
    slowed = "throttled for heat or power" if nvml and nvml.throttled() else ""
    return timed, "; ".join(reason for reason in (place.foreign, slowed) if reason)


def compute(place: Place) -> Found:
    """Measure square matrix products per precision; fp32 as fp32, without TF32."""
    found = Found()
    for number, name in _gpus():
        for short, kind in _KINDS.items():
            size = 4096 if kind is torch.float32 else 8192
            left = torch.randn(size, size, device="cuda", dtype=kind)
            right = torch.randn(size, size, device="cuda", dtype=kind)
            out = torch.empty_like(left)
            work = functools.partial(torch.mm, left, right, out=out)
            timed, doubt = _repeat(number, work, place)
            found.measurements.append(
                rate(
                    f"{name}.matmul_{short}",
                    timed,
                    amount=2 * size**3,
                    unit="FLOP/s",
                    limit=_peak(torch.cuda.get_device_name(number), kind),
                    doubt=doubt,
                )
            )
    return found


def _peak(model: str, kind: torch.dtype) -> Limit:
    for known, (tensor, plain) in PEAKS.items():
        if known in model:
            value = plain if kind is torch.float32 else tensor
            return Limit(value=value, source=f"dense peak of {known}, NVIDIA's data sheet")
    return Limit(source=f"peak of {model} is not in the table")


def memory(place: Place) -> Found:
    """Measure a copy on the GPU and reads by pattern: in order, strided, at random."""
    found = Found()
    for number, name in _gpus():
        count = 1 << 28  # 4 bytes each: far beyond any cache
        source = torch.ones(count, device="cuda")
        target = torch.empty_like(source)
        limit = _bandwidth(number)
        timed, doubt = _repeat(number, functools.partial(target.copy_, source), place)
        amount = 8 * count
        found.measurements.append(
            rate(f"{name}.copy", timed, amount=amount, unit="B/s", limit=limit, doubt=doubt)
        )
        part = count // 32
        order = torch.arange(part, device="cuda")
        patterns = {
            "in_order": order,
            "strided": order * 32,
            "random": torch.randint(0, count, (part,), device="cuda"),
        }
        out = torch.empty(part, device="cuda")
        for pattern, index in patterns.items():
            timed, doubt = _repeat(
                number,
                functools.partial(torch.index_select, source, 0, index, out=out),
                place,
            )
            found.measurements.append(
                rate(
                    f"{name}.read_{pattern}",
                    timed,
                    amount=(4 + 4 + 8) * part,  # value read, value written, 8 bytes of index
                    unit="B/s",
                    limit=limit,
                    doubt=doubt,
                )
            )
    return found


def _bandwidth(number: int) -> Limit:
    """Bus width x clock x 2: memory transfers on both edges of the clock that NVML names."""
    nvml = nvml_of(number)
    width = nvml.ask("nvmlDeviceGetMemoryBusWidth") if nvml else []
    clock = nvml.ask("nvmlDeviceGetMaxClockInfo", _MEMORY) if nvml else []
    if not (width and clock):
        return Limit(source="the driver does not say bus width and memory clock")
    source = f"{width[0]} bit x {clock[0]} MHz x 2, from NVML"
    return Limit(value=width[0] / 8 * clock[0] * 1e6 * 2, source=source)


def transfer(place: Place) -> Found:
    """Measure host to device, pinned and pageable, and the latency of launching a kernel."""
    found = Found()
    for number, name in _gpus():
        size = 256 << 20
        target = torch.empty(size, dtype=torch.uint8, device="cuda")
        for kind in ("pinned", "pageable"):
            source = torch.ones(size, dtype=torch.uint8)
            source = source.pin_memory() if kind == "pinned" else source
            timed, doubt = _repeat(
                number,
                functools.partial(target.copy_, source, non_blocking=True),
                place,
            )
            found.measurements.append(
                rate(
                    f"{name}.host_to_device_{kind}",
                    timed,
                    amount=size,
                    unit="B/s",
                    limit=_pcie(number),
                    doubt=doubt,
                )
            )
        small = torch.zeros(1, device="cuda")

        def launches(values: torch.Tensor = small) -> None:
            for _ in range(_LAUNCHES):
                values.add_(1)

        timed, doubt = _repeat(number, launches, place)
        found.measurements.append(duration(f"{name}.launch", timed, parts=_LAUNCHES, doubt=doubt))
    return found


def _pcie(number: int) -> Limit:
    nvml = nvml_of(number)
    generation = nvml.ask("nvmlDeviceGetMaxPcieLinkGeneration") if nvml else []
    width = nvml.ask("nvmlDeviceGetCurrPcieLinkWidth") if nvml else []
    if not (generation and width and generation[0] in _PCIE_LANE):
        return Limit(source="the driver does not say the PCIe link")
    source = f"PCIe {generation[0]}.0 x{width[0]} after line coding"
    return Limit(value=_PCIE_LANE[generation[0]] * width[0], source=source)
