"""Nsight Compute's ``--csv --page raw``: one row per kernel, units in the second row.

Metric names differ by chip and version: each quantity has several, the first present is taken.
"""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

from trainyard.errors import ProfileError
from trainyard.profile.counters import (
    COMPUTE_SOL,
    DRAM_BYTES,
    DRAM_SOL,
    FADD,
    FFMA,
    FMUL,
    MEMORY_SOL,
    OCCUPANCY,
    TENSOR,
    TIME,
    Counters,
)
from trainyard.profile.names import normalised

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_BYTES = 1 << 30

METRICS: dict[str, tuple[str, ...]] = {
    TIME: ("gpu__time_duration.sum", "gpu__time_duration_measured_wallclock"),
    COMPUTE_SOL: (
        "sm__throughput.avg.pct_of_peak_sustained_elapsed",
        "smsp__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    MEMORY_SOL: ("gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",),
    DRAM_SOL: (
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    DRAM_BYTES: ("dram__bytes.sum", "lts__t_bytes.sum"),
    OCCUPANCY: ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    TENSOR: (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
        "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
    ),
    FADD: ("smsp__sass_thread_inst_executed_op_fadd_pred_on.sum",),
    FMUL: ("smsp__sass_thread_inst_executed_op_fmul_pred_on.sum",),
    FFMA: ("smsp__sass_thread_inst_executed_op_ffma_pred_on.sum",),
}
SCALES = {
    "": 1.0, "%": 1.0, "inst": 1.0, "s": 1.0, "second": 1.0, "ms": 1e-3, "msecond": 1e-3,
    "us": 1e-6, "usecond": 1e-6, "ns": 1e-9, "nsecond": 1e-9, "byte": 1.0, "B": 1.0,
    "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12,
    "KB": 1e3, "MB": 1e6, "GB": 1e9, "Kinst": 1e3, "Minst": 1e6, "Ginst": 1e9,
}  # fmt: skip
"""To seconds, bytes, per cent and instructions; ncu's prefixes are decimal."""


def read_ncu(path: Path) -> dict[str, Counters]:
    """Return the counters in *path* by normalised kernel name.

    Raises ``ProfileError`` when the file is no such CSV, is truncated, holds no kernel, or has
    units that are not known.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ProfileError(
                f"{path} is larger than 1 GiB: profile fewer kernels (--launch-count)"
            )
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from error
    lines = text.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if _is_head(line)), None)
    if start is None:
        raise ProfileError(_no_table(path, text))
    try:
        rows = list(csv.reader(io.StringIO("".join(lines[start:]))))
    except csv.Error as error:
        raise ProfileError(f"{path} is damaged ({error}): export it again") from error
    head, units, body = rows[0], rows[1] if len(rows) > 1 else [], rows[2:]
    columns = {name: place for place, name in enumerate(head)}
    if "Kernel Name" not in columns or len(units) != len(head) or any(units[:2]):
        raise ProfileError(
            f"{path} is not the raw page of ncu (kernels by row, units in the second row): write "
            "it with ncu --import FILE.ncu-rep --csv --page raw"
        )
    body = [row for row in body if row and not row[0].startswith("==")]
    if not body:
        raise ProfileError(f"{path} has no kernel: the profiled range was empty. Profile again")
    short = next((row for row in body if len(row) != len(head)), None)
    if short is not None:
        raise ProfileError(
            f"{path} is truncated: a row has {len(short)} of {len(head)} fields. Export it again"
        )
    return _counters(path, columns, units, body)


def _is_head(line: str) -> bool:
    return line.lstrip("\ufeff").startswith(('"ID"', "ID,")) and "Kernel Name" in line


def _no_table(path: Path, text: str) -> str:
    if "ERR_NVGPUCTRPERM" in text:
        return (
            f"{path}: ncu was not permitted to read GPU counters (ERR_NVGPUCTRPERM). Ask for "
            "NVreg_RestrictProfilingToAdminUsers=0 on the node, or leave the file out: the "
            "analysis then says counters unavailable"
        )
    return (
        f"{path} is no CSV of Nsight Compute (no header with ID and Kernel Name): write it with "
        "ncu --import FILE.ncu-rep --csv --page raw"
    )


def _counters(
    path: Path, columns: dict[str, int], units: list[str], body: list[list[str]]
) -> dict[str, Counters]:
    places = {
        quantity: (columns[name], _scale(path, name, units[columns[name]]))
        for quantity, names in METRICS.items()
        if (name := next((n for n in names if n in columns), None))
    }
    if TIME not in places:
        raise ProfileError(
            f"{path} lacks gpu__time_duration.sum: add --section SpeedOfLight when profiling"
        )
    groups: dict[str, list[dict[str, float]]] = {}
    for row in body:
        values = {
            quantity: number * scale
            for quantity, (place, scale) in places.items()
            if (number := _number(row[place])) is not None
        }
        if values.get(TIME, 0.0) > 0:
            groups.setdefault(normalised(row[columns["Kernel Name"]]), []).append(values)
    if not groups:
        raise ProfileError(f"{path} has no kernel with a duration: profile again")
    return {
        name: Counters(name=name, calls=len(rows), values=_mean(rows))
        for name, rows in groups.items()
    }


def _scale(path: Path, name: str, unit: str) -> float:
    scale = SCALES.get(unit.strip())
    if scale is None:
        raise ProfileError(
            f"{path}: {name} has the unit {unit!r}, known are {', '.join(sorted(SCALES)[1:])}: "
            "export with --print-units base"
        )
    return scale


def _number(text: str) -> float | None:
    """Return the number in *text*; None for "n/a", and for the nan of a metric without a base."""
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


_PER_CALL = frozenset((TIME, DRAM_BYTES, FADD, FMUL, FFMA))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return plain means of amounts, and means of rates weighted by time."""
    made = {}
    for quantity in {key for row in rows for key in row}:
        known = [row for row in rows if quantity in row]
        weights = [1.0 if quantity in _PER_CALL else row[TIME] for row in known]
        total = sum(row[quantity] * w for row, w in zip(known, weights, strict=True))
        made[quantity] = total / sum(weights)
    return made
