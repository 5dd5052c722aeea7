"""``python -m trainer.probes``: probe this node and write its report.

Under torchrun or srun every node is probed by its first rank, the others wait for it; then all
ranks together measure the network between them. Exit code 0 means that the report was written,
whatever it says: judging it is somebody else's task.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.contract import ProbeReport, dumps
from trainer.files import write_atomic
from trainer.probes.found import Found, Place
from trainer.probes.registry import PROBES
from trainer.probes.supervisor import Supervisor
from trainer.provenance import now

BUDGET_S = 60.0
USAGE = 64
"""Exit code for options that make no sense (EX_USAGE of sysexits.h)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe this node; return the exit code."""
    chosen = _parser().parse_args(arguments)
    unknown = sorted(set(chosen.only) - set(PROBES))
    if unknown:
        told = f"--only {','.join(unknown)}: no such probe; choose from {', '.join(PROBES)}"
        sys.stderr.write(told + "\n")
        return USAGE
    if chosen.budget <= 0:
        sys.stderr.write(f"--budget {chosen.budget:g}: must be more than 0 seconds\n")
        return USAGE
    try:
        Path(chosen.run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stderr.write(f"--run-dir {chosen.run_dir}: {error.strerror}\n")
        return USAGE
    names = [name for name in PROBES if not chosen.only or name in chosen.only]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from trainer.probes.ranks import probe_together

        return probe_together(chosen, names, os.environ)
    write(report(chosen, names, nodes=1), chosen, os.environ)
    return 0


def report(
    chosen: argparse.Namespace, names: Sequence[str], *, nodes: int, more: Found | None = None
) -> ProbeReport:
    """Return what the probes called *names* find, and *more* that was found elsewhere."""
    place = Place(
        root=Path("/"),
        run_dir=Path(chosen.run_dir).resolve(),
        data_dir=Path(chosen.data_dir or chosen.run_dir).resolve(),
        quick=chosen.quick,
    )
    started, begin = now(), time.monotonic()
    found = Supervisor(place, budget_s=chosen.budget).run(names)
    more = more or Found()
    return ProbeReport(
        node=platform.node(),
        nodes=nodes,
        started_at=started,
        seconds=round(time.monotonic() - begin, 3),
        quick=chosen.quick,
        facts=tuple([*found.facts, *more.facts]),
        measurements=tuple([*found.measurements, *more.measurements]),
        problems=tuple([*found.problems, *more.problems]),
    )


def write(made: ProbeReport, chosen: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Write *made* where --out says: one file, or one per node in a folder; else print it."""
    text = dumps(made) + "\n"
    if not chosen.out:
        sys.stdout.write(text)
        return
    path = Path(chosen.out)
    if path.suffix != ".json":
        node = environ.get("SLURMD_NODENAME") or made.node
        path.mkdir(parents=True, exist_ok=True)
        path /= f"{node}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    counts = f"{len(made.facts)} facts, {len(made.measurements)} measurements"
    sys.stdout.write(f"{path}: {counts}, {len(made.problems)} problems in {made.seconds:.1f} s\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.probes", description="Probe a node.")
    parser.add_argument(
        "--out", default="", help="FILE.json, or a folder that gets <node>.json; default: stdout"
    )
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all probes")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help="probes, by comma"
    )
    parser.add_argument("--run-dir", default=".", help="folder of runs, whose disk is measured")
    parser.add_argument("--data-dir", default="", help="folder of data; default: that of runs")
    return parser
