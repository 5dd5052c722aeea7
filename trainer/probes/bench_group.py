"""All-reduce against size and point-to-point latency, between ranks on this node.

Bus bandwidth as in NVIDIA's nccl-tests (doc/PERFORMANCE.md): bytes / seconds x 2 (n - 1) / n, which
does not depend on the number of ranks n.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainer.contract import Measurement, decode, encode
from trainer.machine import usable_cores
from trainer.probes.found import Found, Place
from trainer.probes.timing import Limit, Timed, summary

SIZES = (8, 1 << 12, 1 << 16, 1 << 20, 1 << 24)
"""Bytes of the all-reduces; quick probes leave every second one out."""
RANKS = 2
"""Ranks on a node with one core."""
_WAIT_S = 30.0


def collectives(place: Place) -> Found:
    """Start ranks on this node and measure between them: gloo, and NCCL on several GPUs."""
    found = Found()
    gpus = torch.cuda.device_count()
    backends = [("gloo", min(max(RANKS, usable_cores()), 4))]
    if gpus > 1:
        backends.append(("nccl", gpus))
    for backend, ranks in backends:
        doubt = place.foreign if backend == "nccl" else ""
        _together(found, backend, ranks, quick=place.quick, doubt=doubt)
    return found


def _together(found: Found, backend: str, ranks: int, *, quick: bool, doubt: str) -> None:
    with tempfile.TemporaryDirectory(prefix="trainyard-probe-") as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "trainer.probes.rank", backend, str(out)]
        command += ["quick"] if quick else []
        common = os.environ | {
            "PROBE_STORE": f"file:{folder}/store",
            "PROBE_PREFIX": f"{backend}.{ranks}_ranks",
            "WORLD_SIZE": str(ranks),
            "OMP_NUM_THREADS": "1",
            "PROBE_DOUBT": doubt,
        }
        started = [
            subprocess.Popen(
                command,
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        words = [process.communicate(timeout=_WAIT_S)[1] for process in started]
        codes = [process.returncode for process in started]
        if any(codes) or not out.exists():
            last = next((w.strip().splitlines()[-1] for w in words if w.strip()), "no message")
            found.problem("collectives", f"{backend} between {ranks} ranks: {last}")
            return
        found.measurements += read_measured(out)


def measure_group(prefix: str, *, quick: bool, device: str, doubt: str = "") -> list[Measurement]:
    """Return what the ranks of the default process group reach together; call it on every rank."""
    made: list[Measurement] = []
    for size in SIZES[::2] if quick else SIZES:
        tensor = torch.ones(max(1, size // 4), device=device)
        times = _times(lambda t=tensor: torch.distributed.all_reduce(t), device, quick=quick)
        ranks = torch.distributed.get_world_size()
        made += of_size(prefix, size, times, ranks, doubt)
    made.append(_ping(prefix, device, doubt, quick=quick))
    return made


def of_size(prefix: str, size: int, timed: Timed, ranks: int, doubt: str = "") -> list[Measurement]:
    """Return time and, of large ones, bus bandwidth of all-reduces of *size* bytes."""
    seconds = np.array(timed.seconds)
    limit = Limit(source="the path between the ranks (memory, links) is not modelled")
    made = [summary(f"{prefix}.all_reduce_time.{size}", seconds, "s", limit, timed, doubt)]
    if size >= 1 << 20:
        bandwidth = size / seconds * 2 * (ranks - 1) / ranks
        name = f"{prefix}.all_reduce_bus.{size}"
        made.append(summary(name, bandwidth, "B/s", limit, timed, doubt))
    return made


def of_ping(prefix: str, timed: Timed, doubt: str = "") -> Measurement:
    """Return the latency between two ranks; *timed* holds half round trips."""
    limit = Limit(source="the path between the ranks is not modelled")
    name = f"{prefix}.point_to_point"
    return summary(name, np.array(timed.seconds), "s", limit, timed, doubt)


def repeats(*, quick: bool) -> int:
    """Return how often each call is timed, the same number on every rank."""
    return 12 if quick else 30


def _times(work: object, device: str, *, quick: bool) -> Timed:
    """Time a collective call the same number of times on every rank; a rank's clock counts."""
    import time

    if not callable(work):
        raise TypeError("work must be callable")
    count = repeats(quick=quick)
    taken = []
    for turn in range(count + 3):
        torch.distributed.barrier()
        before = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        if turn >= 3:  # noqa: PLR2004 - warm-up: connections are made in the first calls
            taken.append(time.perf_counter() - before)
    slowest = torch.tensor(taken, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
    return Timed(seconds=tuple(slowest.tolist()), foreign_cores=0.0)


def _ping(prefix: str, device: str, doubt: str, *, quick: bool) -> Measurement:
    """Measure half a round trip of 8 bytes between the first rank and the last."""
    rank, last = torch.distributed.get_rank(), torch.distributed.get_world_size() - 1
    tensor = torch.ones(2, device=device)

    def ping() -> None:
        if rank == 0:
            torch.distributed.send(tensor, last)
            torch.distributed.recv(tensor, last)
        elif rank == last:
            torch.distributed.recv(tensor, 0)
            torch.distributed.send(tensor, 0)

    timed = _times(ping, device, quick=quick)
    halves = tuple(seconds / 2 for seconds in timed.seconds)
    return of_ping(prefix, replace(timed, seconds=halves), doubt)


def write_measured(made: list[Measurement], out: Path) -> None:
    """Write *made* for whoever started the ranks."""
    out.write_text(json.dumps([encode(one) for one in made]))


def read_measured(out: Path) -> list[Measurement]:
    """Return what ``write_measured`` wrote."""
    return [decode(Measurement, one) for one in json.loads(out.read_text())]
