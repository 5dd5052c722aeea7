"""Matrix products, transfers and launches on each visible GPU; nothing where there is none."""

from __future__ import annotations

import functools

import torch

from trainer.machine import nvml_of
from trainer.metrics import PEAKS
from trainer.probes.found import Found, Place
from trainer.probes.gpus import every_gpu, repeat_on
from trainer.probes.timing import Limit, duration, rate

_KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LAUNCHES = 2000
_PCIE_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""Bytes/s of a PCIe lane in one direction after line coding (PCI-SIG base specifications)."""


def compute(place: Place) -> Found:
    """Measure square matrix products per precision; fp32 as fp32, without TF32."""
    found = Found()
    for number, name in every_gpu():
        for short, kind in _KINDS.items():
            size = 4096 if kind is torch.float32 else 8192
            left = torch.randn(size, size, device="cuda", dtype=kind)
            right = torch.randn(size, size, device="cuda", dtype=kind)
            out = torch.empty_like(left)
            work = functools.partial(torch.mm, left, right, out=out)
            timed, doubt = repeat_on(number, work, place)
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


def transfer(place: Place) -> Found:
    """Measure host to device, pinned and pageable, and the latency of launching a kernel."""
    found = Found()
    for number, name in every_gpu():
        size = 256 << 20
        target = torch.empty(size, dtype=torch.uint8, device="cuda")
        for kind in ("pinned", "pageable"):
            source = torch.ones(size, dtype=torch.uint8)
            source = source.pin_memory() if kind == "pinned" else source
            timed, doubt = repeat_on(
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

        timed, doubt = repeat_on(number, launches, place)
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
