"""Memory bandwidth and matrix products of the cores this process may use."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from trainer.machine import usable_cores
from trainer.probes.found import Found, Place, read
from trainer.probes.native import BuildError, build, find_program
from trainer.probes.timing import Limit, rate, repeat

_TRIAD_BYTES = 3 * 8
"""Bytes that STREAM counts per element of a triad in float64: two read, one written."""
_SIZE = 2048
"""Rows of the matrices, the same for quick probes: numbers of both must compare."""
_SHORT = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16"}
_WIDTH = {torch.float64: 0.5, torch.float32: 1.0, torch.bfloat16: 2.0}
"""Operations per cycle against fp32: lanes of a vector; bf16 pairs of AVX512_BF16."""
_MUCH_LESS = 0.8
_AMX_BF16 = 2048
"""FLOP per cycle and core of AMX: TDPBF16PS does 16x16x32 multiply-adds in 16 cycles (Intel 64
optimization manual, chapter on AMX)."""

_AVX512_TWO_UNITS = 64.0  # two 512-bit FMA units x 16 lanes x 2 operations
_ONE_512_OR_TWO_256 = 32.0
_ZEN5, _ZEN34 = 26, 25


def memory(place: Place) -> Found:
    """Measure the triad a = b + s c on arrays far larger than any cache.

    ``memory.triad`` is torch's, with ordinary stores: they read the line before they overwrite it,
    so a third more bytes move than STREAM counts. ``memory.triad_streaming`` stores past the
    caches, as tuned STREAM does; it needs a C compiler and an x86 processor.
    """
    found = Found()
    # STREAM's rule: each array at least four times the largest cache.
    count = max(16 << 20, 4 * _cache(place) // 8)
    _ordinary(found, count, place)
    compiler = find_program("cc", "gcc")
    if compiler is not None and platform.machine() == "x86_64":
        _streaming(found, compiler, count, place)
    return found


def _ordinary(found: Found, count: int, place: Place) -> None:
    _all_cores()
    a, b, c = (torch.full((count,), value, dtype=torch.float64) for value in (0.0, 1.0, 2.0))
    _triad(found, "memory.triad", lambda: torch.add(b, c, alpha=3.0, out=a), count, place)


def _triad(found: Found, name: str, work: Callable[[], object], count: int, place: Place) -> None:
    timed = repeat(work, seconds=0.6 if place.quick else 2.0, least=7)
    limit = Limit(source="channels and their speed cannot be read without root (DMI tables)")
    amount = _TRIAD_BYTES * count
    found.measurements.append(rate(name, timed, amount=amount, unit="B/s", limit=limit))


def _streaming(found: Found, compiler: str, count: int, place: Place) -> None:
    try:
        library = load_triad(compiler)
    except (BuildError, OSError) as error:  # a folder for temporary files may forbid execution
        fix = "install libc's and OpenMP's headers, or hide the compiler: only this needs it"
        found.problem("memory", str(error), fix)
        return
    if library.triad_begin(count, usable_cores()):
        found.problem("memory", f"no room for three arrays of {8 * count >> 20} MiB")
        return
    try:
        _triad(found, "memory.triad_streaming", library.triad_pass, count, place)
        if wrong := library.triad_wrong():
            raise ArithmeticError(f"the streaming triad left {wrong} of {count} elements wrong")
    finally:
        library.triad_end()


def load_triad(compiler: str, machine: str = "-march=native") -> ctypes.CDLL:
    """Return ``triad.c`` as a library. Raises ``BuildError``, and ``OSError`` of the loader.

    *machine* chooses the instructions; those of this processor unless told otherwise.

    A library rather than a program: its threads are this process's, so foreign load is told from
    its own as everywhere.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-probe-") as folder:
        flags = (machine, "-fopenmp", "-shared", "-fPIC")
        path = build(compiler, "triad.c", Path(folder) / "triad.so", flags)
        library = ctypes.CDLL(str(path))  # stays mapped when the folder goes
    library.triad_begin.argtypes = [ctypes.c_int64, ctypes.c_int]
    library.triad_wrong.restype = ctypes.c_int64
    return library


def _cache(place: Place) -> int:
    folder = place.root / "sys/devices/system/cpu/cpu0/cache"
    sizes = [read(index / "size") for index in folder.glob("index[0-9]*")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=0)


def _all_cores() -> int:
    """Let torch use every core that this process may, whatever OMP_NUM_THREADS says."""
    cores = usable_cores()
    torch.set_num_threads(cores)
    return cores


def matmul(place: Place) -> Found:
    """Measure square matrix products in the precisions that training uses."""
    found, cores = Found(), _all_cores()
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        size = _SIZE
        left, right = (torch.randn(size, size).to(kind) for _ in range(2))
        out = torch.empty(size, size, dtype=kind)
        limit = peak(read(place.root / "proc/cpuinfo"), kind, cores, _max_mhz(place))
        works: dict[str, Callable[[], object]] = {
            "": functools.partial(torch.mm, left, right, out=out)
        }
        if kind is not torch.bfloat16:  # NumPy's own library, beside torch's
            works["_numpy"] = functools.partial(
                np.matmul, left.numpy(), right.numpy(), out=out.numpy()
            )
        for suffix, work in works.items():
            timed = repeat(work, seconds=0.3 if place.quick else 1.0)
            name = f"cpu.matmul_{_SHORT[kind]}{suffix}"
            found.measurements.append(
                rate(name, timed, amount=2 * size**3, unit="FLOP/s", limit=limit)
            )
    _compare(found)
    return found


def _compare(found: Found) -> None:
    """Say when the library that training uses leaves much of the processor unused."""
    values = {one.name: one for one in found.measurements}
    torch_s, numpy_s = values["cpu.matmul_fp32"], values["cpu.matmul_fp32_numpy"]
    if torch_s.high < _MUCH_LESS * numpy_s.low:
        found.problem(
            "matmul",
            f"torch reaches {torch_s.value / numpy_s.value:.0%} of NumPy's fp32 matrix product",
            "its MKL does not know this processor well: train in bf16 (oneDNN), if that is enough",
        )


def _max_mhz(place: Place) -> float | None:
    text = read(place.root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return int(text) / 1000 if text.isdecimal() else None


def peak(cpuinfo: str, kind: torch.dtype, cores: int, max_mhz: float | None) -> Limit:
    """Return the most FLOP/s of *cores*: operations per cycle x clock x cores.

    Operations per cycle by instruction set and family: AMD Zen 5 and Intel server cores with
    AVX-512 have two 512-bit FMA units, Zen 4 halves them; AVX2 cores have two of 256 bits (AMD
    software optimization guides 56665, 57647, 58455; Intel 64 optimization manual).
    """
    fields = _fields(cpuinfo)
    flags = set(fields.get("flags", "").split())
    width = _fp32_per_cycle(fields, flags)
    if width is None:
        return Limit(source="operations per cycle of this processor are not in the table")
    if kind is torch.bfloat16 and "amx_bf16" in flags:
        per_cycle = float(_AMX_BF16)
    elif kind is torch.bfloat16 and "avx512_bf16" not in flags:
        return Limit(source="bf16 is emulated here: no instruction for it")
    else:
        per_cycle = width * _WIDTH[kind]
    if max_mhz is None:
        # The clock in /proc/cpuinfo is the nominal one there, and boost exceeds it by half.
        return Limit(source="the largest clock is hidden, as in virtual machines")
    source = f"{per_cycle:g} FLOP/cycle x {max_mhz:.0f} MHz x {cores} cores"
    return Limit(value=per_cycle * max_mhz * 1e6 * cores, source=source)


def _fields(cpuinfo: str) -> dict[str, str]:
    first = cpuinfo.split("\n\n", maxsplit=1)[0]
    pairs = re.findall(r"^([^:\n]+?)\s*:\s*(.*)$", first, re.MULTILINE)
    return {str(name): str(value) for name, value in pairs}


def _fp32_per_cycle(fields: dict[str, str], flags: set[str]) -> float | None:
    vendor, family = fields.get("vendor_id", ""), fields.get("cpu family", "0")
    if vendor == "AuthenticAMD" and "avx512f" in flags:
        known = {_ZEN5: _AVX512_TWO_UNITS, _ZEN34: _ONE_512_OR_TWO_256}
        return known.get(int(family))
    if vendor == "GenuineIntel" and "avx512f" in flags:
        return _AVX512_TWO_UNITS
    if vendor in {"AuthenticAMD", "GenuineIntel"} and {"avx2", "fma"} <= flags:
        return _ONE_512_OR_TWO_256
    return None
