"""Probing several nodes together: one report per node, then all ranks measure their network."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from trainer.contract import ProbeReport
from trainer.probes.cli import report, write
from trainer.probes.found import Found
from trainer.probes.supervisor import FOREIGN_FACT

_MORE_S = 60.0
_MEET_S = 10.0
_APART_S = 45.0
"""Longest time of the ranks' own processes; they give each other up after 25 s."""


def probe_together(
    chosen: argparse.Namespace, names: Sequence[str], environ: Mapping[str, str]
) -> int:
    """Probe this node when this is its first rank; measure between all ranks; return exit code 0.

    The probes of a node use all its cores, so its other ranks wait in the meeting.
    """
    import torch

    from trainer.probes.bench_group import measure_group

    first = int(environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or 0) == 0
    nodes = int(environ["WORLD_SIZE"]) // int(environ.get("LOCAL_WORLD_SIZE", "1"))
    own = [name for name in names if name != "collectives"] if nodes > 1 else names
    made = report(chosen, own, nodes=nodes) if first else None
    more = Found()
    group = torch.distributed
    group.init_process_group("gloo", timeout=timedelta(seconds=chosen.budget + _MORE_S))
    try:
        between = f"{nodes}_nodes_{environ['WORLD_SIZE']}_ranks"
        more.measurements += measure_group(f"gloo.{between}", quick=chosen.quick, device="cpu")
        if nodes > 1:  # on one node the probe "collectives" measures it
            measure_gpus(more, between, environ, quick=chosen.quick, doubt=foreign(made))
    finally:
        group.destroy_process_group()
    if made is not None:
        mine = more if group_rank(environ) == 0 else Found()
        whole = replace(
            made,
            measurements=(*made.measurements, *mine.measurements),
            problems=(*made.problems, *mine.problems),
        )
        write(whole, chosen, os.environ)
    return 0


def group_rank(environ: Mapping[str, str]) -> int:
    """Return this node's place among the nodes."""
    for name in ("GROUP_RANK", "SLURM_NODEID"):
        if name in environ:
            return int(environ[name])
    return 0


def foreign(made: ProbeReport | None) -> str:
    """Return which other programs *made* found on the GPUs of its node; empty: none."""
    facts = made.facts if made else ()
    busy = [fact for fact in facts if fact.name.endswith(FOREIGN_FACT) and fact.value != "none"]
    return "; ".join(f"{platform.node()}: {fact.name}: {fact.value}" for fact in busy)


def own_gpu(environ: Mapping[str, str], gpus: int) -> bool:
    """Return whether this rank has one of the node's *gpus* as training gives them: by place."""
    return int(environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or 0) < gpus


def measure_gpus(
    more: Found, between: str, environ: Mapping[str, str], *, quick: bool, doubt: str
) -> None:
    """Measure NCCL between all ranks when each has its GPU; call it on every rank.

    What goes wrong is a problem in *more*, the same on every rank. *doubt* is why numbers of this
    rank's node do not count.
    """
    import torch

    told = gathered((own_gpu(environ, torch.cuda.device_count()), doubt))
    if not all(has for has, _ in told):
        return
    doubts = "; ".join(sorted({words for _, words in told if words}))
    measure_apart(more, "nccl", between, environ, quick=quick, doubt=doubts)


def measure_apart(
    more: Found, backend: str, between: str, environ: Mapping[str, str], *, quick: bool, doubt: str
) -> None:
    """Measure *backend* between processes that each rank starts for it; call it on every rank.

    NCCL ends its process when it fails and may never return: neither may cost a report. The
    measurements come to the first rank alone.
    """
    import torch

    rank, host = torch.distributed.get_rank(), environ["MASTER_ADDR"]
    store, why = _store(host) if rank == 0 else (None, "")
    port = gathered(store.port if store is not None else 0)[0]
    with tempfile.TemporaryDirectory(prefix="trainyard-probe-") as name:
        out = Path(name) / "out.json"
        settings = {
            "PROBE_STORE": f"tcp:{host}:{port}",
            "PROBE_PREFIX": f"{backend}.{between}",
            "PROBE_DOUBT": doubt,
            "RANK": str(rank),
            "LOCAL_RANK": environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or "0",
        }
        failed = _apart(backend, out, dict(environ) | settings, quick=quick) if port else why
        words = [line for line in gathered(failed) if line]
        if words:
            fix = "run a training with NCCL_DEBUG=INFO on these nodes; see the site's interface"
            more.problem("collectives", f"{backend} between {between}: {words[0]}", fix)
        elif rank == 0:
            from trainer.probes.bench_group import read_measured

            more.measurements += read_measured(out)


def _store(host: str) -> tuple[Any, str]:
    """Return where the processes meet, kept by this one, and an error instead of it."""
    import torch

    try:
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=_MEET_S)
        )
    except RuntimeError as error:
        return None, f"no meeting place at {host}: {error}"
    return store, ""


def _apart(backend: str, out: Path, environ: Mapping[str, str], *, quick: bool) -> str:
    """Run this rank's process to its end; return what went wrong, with the node's name."""
    command = [sys.executable, "-m", "trainer.probes.rank", backend, str(out)]
    command += ["quick"] if quick else []
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_APART_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{platform.node()}: no end within {_APART_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
    errors = [line for line in lines if "Error" in line]  # libraries say farewell after theirs
    return f"{platform.node()}: {(errors or lines)[-1]}"


def gathered(one: Any) -> list[Any]:
    """Return what every rank of the default group gives, by rank; call it on every rank."""
    import torch

    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, one)
    return found
