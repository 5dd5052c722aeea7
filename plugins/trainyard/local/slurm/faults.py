"""What breaks on a real cluster, done to a throw-away one: for tests and demonstrations."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from trainyard.local.slurm.cluster import Cluster


def power_off(cluster: Cluster, node: str) -> None:
    """End a node as a power failure would: slurmd, its job steps and their processes, at once."""
    cluster.daemons.stop(f"slurmd-{node}", kill=True)
    steps = steps_on(cluster, node)
    processes = []
    for step in steps:
        with suppress(psutil.NoSuchProcess):
            processes += step.children(recursive=True)
    # Steps first: one that outlived its processes would report their end, as no dead node does.
    for process in (*steps, *processes):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs([*steps, *processes], timeout=5)


def mark_down(cluster: Cluster, node: str, reason: str = "injected") -> None:
    """Declare a node DOWN without waiting for SlurmdTimeout: its jobs end as NODE_FAIL."""
    cluster.ask("scontrol", "update", f"nodename={node}", "state=down", f"reason={reason}")


def power_on(cluster: Cluster, node: str) -> None:
    """Start a node again and put it back to work; waits until it is idle."""
    cluster.start_node(node)
    cluster.resume(node)


def restart_controller(cluster: Cluster, *, kill: bool = False) -> None:
    """Stop slurmctld (*kill*: by SIGKILL, as a crash) and start it; returns when it answers."""
    cluster.daemons.stop("slurmctld", kill=kill)
    cluster.start_controller()


@contextmanager
def controller_gone(cluster: Cluster) -> Iterator[None]:
    """Within the block slurmctld does not run: clients are refused at once."""
    cluster.daemons.stop("slurmctld")
    try:
        yield
    finally:
        cluster.start_controller()


@contextmanager
def controller_frozen(cluster: Cluster) -> Iterator[None]:
    """Within the block slurmctld accepts connections and never answers: clients time out."""
    cluster.daemons.signal("slurmctld", signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.daemons.signal("slurmctld", signal.SIGCONT)


@contextmanager
def accounting_gone(cluster: Cluster) -> Iterator[None]:
    """Within the block slurmdbd does not run; its records arrive afterwards."""
    cluster.daemons.stop("slurmdbd")
    try:
        yield
    finally:
        cluster.start_dbd()


def steps_on(cluster: Cluster, node: str) -> list[psutil.Process]:
    """Return the slurmstepd processes of one node, told by the log file they write."""
    log = cluster.config.state / "log" / f"slurmd-{node}.log"
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name() == "slurmstepd" and any(
                Path(entry.path) == log for entry in process.open_files()
            ):
                found.append(process)
    return found
