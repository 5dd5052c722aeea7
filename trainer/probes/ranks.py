"""Probing several nodes together: one report per node, then all ranks measure their network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from trainer.probes.cli import report, write

_MORE_S = 60.0


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
    group = torch.distributed
    group.init_process_group("gloo", timeout=timedelta(seconds=chosen.budget + _MORE_S))
    try:
        prefix = f"gloo.{nodes}_nodes_{environ['WORLD_SIZE']}_ranks"
        together = measure_group(prefix, quick=chosen.quick, device="cpu")
    finally:
        group.destroy_process_group()
    if made is not None:
        mine = tuple(together) if group_rank(environ) == 0 else ()
        write(replace(made, measurements=(*made.measurements, *mine)), chosen, os.environ)
    return 0


def group_rank(environ: Mapping[str, str]) -> int:
    """Return this node's place among the nodes."""
    for name in ("GROUP_RANK", "SLURM_NODEID"):
        if name in environ:
            return int(environ[name])
    return 0
