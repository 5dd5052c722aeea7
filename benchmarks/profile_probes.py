"""The probes against established native benchmarks beside them: likwid-bench and OpenBLAS.

Every probe stands between two runs of its counterpart, so that a drift of the machine meets both
alike; each figure is the median of the rounds' ratios with its 95 % bootstrap interval.
likwid-bench comes from Debian's package, unpacked below ``.trainyard``; OpenBLAS is the library
that NumPy brings, driven by a C program that this compiles, with neither Python nor torch around
it.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.load import busy_seconds

ROOT = Path(__file__).resolve().parents[1]
TRAINER = ROOT / ".trainyard/envs/trainer/bin/python"
LIKWID = ROOT / ".trainyard/likwid"
PACKAGES = ("likwid", "libhwloc15", "liblua5.3-0")
KERNELS = {
    "avx512f": ("stream_mem_avx512", "stream_mem_avx", "stream_avx512", "stream"),
    "avx2": ("stream_mem_avx", "stream_avx", "stream"),
}
"""STREAM's triad in double precision, with (``_mem_``) and without stores past the cache."""
TRIALS = 3
"""Runs of every kernel beforehand, to find the best of each kind: only those run beside a probe."""
ITERATIONS = 96
"""Passes of a likwid run, about half a second: short ones stand close to the probes' own."""
FOREIGN_SHARE = 0.10
SPREAD = 0.15
"""The probes' own limits of other programs' share of the cores, and of repeats that disagree."""
SIZE = 2048
DRIVER = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
typedef void (*gemm)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                     const float *, int64_t, float, float *, int64_t);
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_NOW);
  gemm run = library ? (gemm)dlsym(library, "scipy_cblas_sgemm64_") : NULL;
  if (!run) { fprintf(stderr, "%s\n", dlerror()); return 1; }
  int64_t n = atoll(argv[2]);
  float *a = malloc(4 * n * n), *b = malloc(4 * n * n), *c = malloc(4 * n * n);
  for (int64_t i = 0; i < n * n; i++) { a[i] = i % 7 - 3; b[i] = i % 5 - 2; c[i] = 0; }
  for (int turn = 0; turn < 12; turn++) {
    double begin = now();
    run(101, 111, 111, n, n, n, 1, a, n, b, n, 0, c, n);
    if (turn >= 2) printf("%.9f\n", now() - begin);
  }
  return c[0] == 12345.678f;
}
"""


def measure(rounds: int = 7) -> dict[str, Any]:
    """Return how long the suite takes, and how its numbers compare with native benchmarks."""
    with tempfile.TemporaryDirectory(prefix="trainyard-probes-") as name:
        folder = Path(name)
        figures: dict[str, Any] = {"probe_suite_s": suite_seconds(folder)}
        parts = [("matmul", openblas(folder), matmul_ratios)]
        if (stream := likwid()) is not None:
            parts.append(("memory", stream, triad_ratios))
        for part, native, ratios in parts:
            made, disturbed = compared(folder, part, native, rounds)
            for figure, values in ratios(made).items() if made else ():
                figures |= summary(figure, values)
            figures |= {f"{part}_rounds": len(made), f"{part}_rounds_disturbed": disturbed}
    return figures


Reached = dict[str, float]
Round = tuple[Reached, Reached]
"""What the probe reached, and what its counterparts did beside it."""


def compared(
    folder: Path, part: str, native: Callable[[], Reached], rounds: int
) -> tuple[list[Round], int]:
    """Return *rounds* rounds of the probe *part*, and how many did not count.

    A round is native, probe, native: what the machine gave just before and just after. One in
    which other programs were busy on either side is made again, at most twice as often as asked
    for: a thread of likwid that had to wait lets the other's time stand for both. So is one whose
    two native runs disagree: a virtual machine's bandwidth halves when its host's neighbours work.
    """
    made: list[Round] = []
    disturbed = 0
    while len(made) < rounds and disturbed < 2 * rounds:
        before, busy_before = alone(native)
        reached, busy = probes(folder, part)
        after, busy_after = alone(native)
        changed = any(abs(after[name] / before[name] - 1) > SPREAD for name in before)
        if busy or changed or max(busy_before, busy_after) > FOREIGN_SHARE:
            disturbed += 1
        else:
            made.append((reached, {name: (before[name] + after[name]) / 2 for name in before}))
    return made, disturbed


def alone(native: Callable[[], Reached]) -> tuple[Reached, float]:
    """Return what *native* reached, and the share of the cores that others kept busy meanwhile."""
    cores = os.sched_getaffinity(0)

    def now() -> tuple[float, float, float]:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = busy_seconds(Path("/proc/stat").read_text(), cores)
        return time.perf_counter(), busy, used.ru_utime + used.ru_stime + time.process_time()

    start = now()
    reached = native()
    wall, busy, own = (after - before for after, before in zip(now(), start, strict=True))
    return reached, max(0.0, busy - own) / wall / len(cores)


def matmul_ratios(made: list[Round]) -> dict[str, list[float]]:
    """Return what the probe's best product reaches of OpenBLAS, and what torch's does."""
    either = best([reached for reached, _ in made], lambda name: "fp32" in name)
    return {
        "matmul_vs_openblas": [r[either] / n["openblas"] for r, n in made],
        "matmul_torch_vs_openblas": [r["cpu.matmul_fp32"] / n["openblas"] for r, n in made],
    }


def triad_ratios(made: list[Round]) -> dict[str, list[float]]:
    """Return what the probe's best triad reaches of likwid's best, and torch's of ordinary ones.

    Torch stores through the cache; its counterparts are the kernels of likwid that do as well.
    """
    natives = [beside for _, beside in made]
    any_store, cached = best(natives), best(natives, ordinary)
    own = best([reached for reached, _ in made])
    return {
        "triad_vs_stream": [r[own] / n[any_store] for r, n in made],
        "triad_torch_vs_stream": [r["memory.triad"] / n[cached] for r, n in made],
    }


def best(rounds: list[Reached], wanted: Callable[[str], bool] = lambda _: True) -> str:
    """Return the *wanted* name with the greatest median: the best of each round is noise's."""
    names = [name for name in rounds[0] if wanted(name)]
    return max(names, key=lambda name: float(np.median([one[name] for one in rounds])))


def suite_seconds(folder: Path) -> float:
    """Return the wall seconds of the whole suite, its interpreter's start included."""
    begin = time.perf_counter()
    probe(folder, ())
    return round(time.perf_counter() - begin, 2)


def probes(folder: Path, part: str) -> tuple[Reached, bool]:
    """Return what the probe *part* reached, and whether other programs disturbed it."""
    made = probe(folder, ("--quick", "--only", part))["measurements"]
    disturbed = any("foreign load" in one["why"] for one in made)
    return {one["name"]: float(one["value"]) for one in made}, disturbed


def probe(folder: Path, options: tuple[str, ...]) -> dict[str, Any]:
    out = folder / "report.json"
    command = [str(TRAINER), "-m", "trainer.probes", "--out", str(out), "--run-dir", str(folder)]
    subprocess.run([*command, *options], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def openblas(folder: Path) -> Callable[[], Reached]:
    """Return what runs a C program over NumPy's OpenBLAS and returns FLOP/s, the median of ten."""
    source, program = folder / "driver.c", folder / "driver"
    source.write_text(DRIVER)
    subprocess.run(["gcc", "-O2", "-o", str(program), str(source), "-ldl"], check=True)
    where = TRAINER.parents[1] / "lib"
    (library,) = where.glob("python3.*/site-packages/numpy.libs/libscipy_openblas64_*.so")

    def run() -> Reached:
        env = os.environ | {"OPENBLAS_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        command = [str(program), str(library), str(SIZE)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        seconds = float(np.median([float(line) for line in done.stdout.split()]))
        return {"openblas": 2 * SIZE**3 / seconds}

    return run


def likwid() -> Callable[[], Reached] | None:
    """Return what runs likwid-bench's best triads and returns B/s by kernel; None: missing."""
    program = shutil.which("likwid-bench")
    env = dict(os.environ)
    if program is None:
        if not (LIKWID / "usr/bin/likwid-bench").exists() and not unpack():
            print("likwid-bench: no package here; triad_vs_stream is left out", file=sys.stderr)
            return None
        program = str(LIKWID / "usr/bin/likwid-bench")
        libraries = LIKWID / "usr/lib" / f"{platform.machine()}-linux-gnu"
        env["LD_LIBRARY_PATH"] = str(libraries)
        env["PATH"] = f"{env['PATH']}:{LIKWID / 'usr/sbin'}"
    cores = len(os.sched_getaffinity(0))
    flags = set(Path("/proc/cpuinfo").read_text().split())
    kernels = next((names for flag, names in KERNELS.items() if flag in flags), ("stream",))

    def run(kernels: Iterable[str]) -> Reached:
        reached = {}
        for kernel in kernels:
            command = [program, "-t", kernel, "-i", str(ITERATIONS), "-w", f"S0:400MB:{cores}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            if match := re.search(r"^MByte/s:\s+([\d.]+)", done.stdout, re.MULTILINE):
                reached[kernel] = float(match[1]) * 1e6
        if not reached:
            raise RuntimeError(f"likwid-bench measured nothing: {done.stdout} {done.stderr}")
        return reached

    tried = [run(kernels) for _ in range(TRIALS)]
    chosen = {best(tried), best(tried, ordinary)}
    return functools.partial(run, sorted(chosen))


def ordinary(kernel: str) -> bool:
    """Return whether a kernel of likwid stores through the cache."""
    return "_mem_" not in kernel


def unpack() -> bool:
    """Unpack likwid with its libraries; return whether that worked. Nothing is installed."""
    if shutil.which("apt-get") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
        if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
            return False
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(LIKWID)], check=True)
    return True


def summary(name: str, values: list[float]) -> dict[str, float]:
    """Return the median of *values* with its 95 % bootstrap interval."""
    array = np.array(values)
    picks = np.random.default_rng(0).integers(0, len(array), (2000, len(array)))
    low, high = np.percentile(np.median(array[picks], axis=1), (2.5, 97.5))
    middle = float(np.median(array))
    return {name: round(middle, 3), f"{name}_low": round(low, 3), f"{name}_high": round(high, 3)}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 7)))
