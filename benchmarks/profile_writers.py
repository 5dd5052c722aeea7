"""Timelines as torch.profiler traces, kernels as the CSV of Nsight Compute."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.profile_generator import CALLS, COPY, DEVICE, Timeline
from benchmarks.profile_nsys import EPOCH, PID


def write_torch(
    path: Path, made: Timeline, *, rank: int = 0, world: int = 1, base_ns: int | None = EPOCH
) -> Path:
    """Write *made* as torch.profiler's Chrome trace, gzipped when *path* ends in .gz."""
    head = {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85}],
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": world},
        "displayTimeUnit": "ms",
    }
    if base_ns is not None:
        head["baseTimeNanoseconds"] = base_ns
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        text = json.dumps(head)
        file.write(text[:-1] + ',\n"traceEvents": [\n')
        for place, event in enumerate(_torch_events(made)):
            file.write((",\n" if place else "") + event)
        file.write("\n]}\n")
    return path


def _torch_events(made: Timeline) -> Iterator[str]:
    quoted = [json.dumps(name) for name in made.names]
    work, calls = made.device, made.calls
    cats = ("kernel", "kernel", "gpu_memcpy", "gpu_memset")
    rows = zip(*(work[name].tolist() for name in DEVICE), strict=True)
    for start, end, kind, stream, correlation, name, size, copy, _ in rows:
        label = quoted[name]
        more = ""
        if kind == COPY:
            label = {
                1: '"Memcpy HtoD (Pageable -> Device)"',
                2: '"Memcpy DtoH (Device -> Pageable)"',
            }[copy]
            more = f', "bytes": {size}'
        yield (
            f'{{"ph": "X", "cat": "{cats[kind]}", "name": {label}, "pid": 0, "tid": {stream}, '
            f'"ts": {start / 1000:.3f}, "dur": {(end - start) / 1000:.3f}, "args": {{"External id": '  # noqa: E501
            f'{correlation}, "device": 0, "context": 1, "stream": {stream}, "correlation": '
            f"{correlation}{more}}}}}"
        )
    rows = zip(*(calls[name].tolist() for name in CALLS), strict=True)
    for start, end, correlation, name in rows:
        label = made.names[name]
        cat = (
            "cuda_driver"
            if label.startswith("cu") and not label.startswith("cuda")
            else "cuda_runtime"
        )
        yield (
            f'{{"ph": "X", "cat": "{cat}", "name": {quoted[name]}, "pid": {PID}, "tid": {PID}, '
            f'"ts": {start / 1000:.3f}, "dur": {(end - start) / 1000:.3f}, "args": {{"External id": '  # noqa: E501
            f'{correlation}, "cbid": 211, "correlation": {correlation}}}}}'
        )
    for low, high, name in made.ranges:
        label = name.replace("step ", "ProfilerStep#") if name.startswith("step ") else name
        yield json.dumps({
            "ph": "X", "cat": "user_annotation", "name": label, "pid": PID, "tid": PID,
            "ts": low / 1000, "dur": (high - low) / 1000, "args": {"External id": 1},
        })  # fmt: skip


METRICS = {
    "gpu__time_duration.sum": "us",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "%",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "%",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "%",
    "dram__bytes.sum": "Mbyte",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "%",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed": "%",
}


def write_ncu(
    path: Path,
    rows: list[tuple[str, tuple[float, ...]]],
    *,
    metrics: dict[str, str] = METRICS,
    banner: bool = True,
) -> Path:
    """Write kernels with one value per metric as ``ncu --csv --page raw`` does."""
    head = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream"]
    head += ["Block Size", "Grid Size", "Device", "CC", *metrics]
    units = [*[""] * 11, *metrics.values()]
    lines = ["==PROF== Connected to process 4321 (python3.11)"] if banner else []
    lines += [_csv(head), _csv(units)]
    for number, (name, values) in enumerate(rows):
        texts = [f"{value:,.2f}" for value in values]
        about = [str(number), "4321", "python3.11", "127.0.0.1", name, "1", "7"]
        lines.append(_csv([*about, "(128, 1, 1)", "(64, 1, 1)", "0", "9.0", *texts]))
    path.write_text("\n".join(lines) + "\n")
    return path


def _csv(values: list[str]) -> str:
    return ",".join('"' + value.replace('"', '""') + '"' for value in values)
