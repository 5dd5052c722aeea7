"""Kernels against the ceilings of their device."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trainyard.profile.kernels import ANALYTIC, COUNTERS
from trainyard.report import style
from trainyard.report.document import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from trainyard.profile.kernels import Kernel
    from trainyard.profile.result import ProfileAnalysis

# Dense peaks from NVIDIA's data sheets: 16-bit tensor cores, fp32 [FLOP/s], memory [byte/s]. By
# words of the device's name as the driver gives it: the same chip comes with several memories.
DEVICES = {
    "V100": (125e12, 15.7e12, 0.9e12),
    "A100-SXM4-40GB": (312e12, 19.5e12, 1.555e12),
    "A100-PCIE-40GB": (312e12, 19.5e12, 1.555e12),
    "A100 80GB PCIe": (312e12, 19.5e12, 1.935e12),
    "A100-SXM4-80GB": (312e12, 19.5e12, 2.039e12),
    "L40S": (362e12, 91.6e12, 0.864e12),
    "H100 PCIe": (756e12, 51e12, 2.0e12),
    "H100 80GB HBM3": (989.5e12, 67e12, 3.35e12),
    "H200": (989.5e12, 67e12, 4.8e12),
}


def roofline(analysis: ProfileAnalysis) -> Figure | None:
    """Return kernels against the device's ceilings, or None where no kernel has FLOP and bytes."""
    item = analysis.ranks[0]
    kernels = [k for k in item.kernels.kernels if k.flops and k.bytes] if item.kernels else []
    if not kernels:
        return None
    gpu = analysis.trace.ranks[0].gpu
    known = ceilings_of(gpu)
    frame = pd.DataFrame([_point(kernel) for kernel in kernels])
    frame["device"] = known
    counted = all(kernel.basis == COUNTERS for kernel in kernels)
    basis = (
        "bytes are counted DRAM traffic, FLOP counted fp32 instructions, or analytic where tensor "
        "cores work, which those counters do not see"
        if counted
        else "counters unavailable: FLOP and bytes are analytic, from operator shapes; bytes are a "
        "lower bound, so the true points lie further left"
    )
    peaks = (
        f"Ceilings of {known} from its data sheet" if known else f"No ceilings are known of {gpu}"
    )
    return Figure(
        name="roofline",
        title="Roofline",
        caption=f"{len(kernels)} kernels of rank {item.rank}; {basis}. {peaks}.",
        alt=f"Roofline with {len(kernels)} kernels.",
        frame=frame,
        draw=_draw_roofline,
        height=3.0,
    )


def ceilings_of(gpu: str) -> str:
    """Return the key of ``DEVICES`` for the device called *gpu*, or an empty text."""
    return next((name for name in DEVICES if re.search(rf"(?<!\w){re.escape(name)}", gpu)), "")


def _point(kernel: Kernel) -> dict[str, object]:
    flops, size = kernel.flops or 0.0, kernel.bytes or 0.0
    return {
        "kernel": kernel.name,
        "intensity": flops / size,
        "flops_per_s": flops / (kernel.mean_ns * 1e-9),
        "share": kernel.share,
        "basis": ANALYTIC if kernel.basis == ANALYTIC else COUNTERS,
        "tensor": bool(kernel.tensor),
    }


def _draw_roofline(canvas: Canvas, frame: pd.DataFrame) -> None:
    axes = canvas.subplots()
    known = str(frame["device"].iloc[0])
    low, high = float(frame["intensity"].min()) / 4, float(frame["intensity"].max()) * 8
    if known:
        tensor, plain, memory = DEVICES[known]
        x = np.geomspace(low, max(high, 4 * tensor / memory), 200)
        for peak, label in ((tensor, "16-bit tensor cores"), (plain, "fp32")):
            axes.plot(x, np.minimum(peak, memory * x), color=style.MUTED, lw=1)
            axes.annotate(
                label, (x[-1], peak), xytext=(0, 3), textcoords="offset points",
                ha="right", fontsize=7, color=style.MUTED,
            )  # fmt: skip
    sizes = 20 + 300 * frame["share"]
    colours = [style.BLUE if tensor else style.AMBER for tensor in frame["tensor"]]
    axes.scatter(frame["intensity"], frame["flops_per_s"], s=sizes, c=colours, alpha=0.8, lw=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP per byte (blue: tensor cores, amber: without)")
    axes.set_ylabel("FLOP/s")
