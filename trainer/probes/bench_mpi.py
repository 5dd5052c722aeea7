"""MPI between processes on this node: whether it starts them, all-reduce and latency.

The numbers come from a C program, so that neither Python nor torch (whose wheels are built without
MPI) stands between the library and its ranks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.machine import usable_cores
from trainer.probes.bench_group import RANKS, SIZES, of_ping, of_size, repeats
from trainer.probes.facts_programs import ask
from trainer.probes.found import Found, Place
from trainer.probes.native import BuildError, build, find_program
from trainer.probes.timing import Timed

_RUN_S = 12.0
_END_S = 3.0
_FOREIGN = ("SLURM_", "PMI_", "PMIX_", "OMPI_COMM_WORLD_", "OMPI_UNIVERSE_")
"""What the launcher around the probes tells its own ranks: MPI would take those for its own, or
spread over the nodes of the allocation."""
_ALONE = {
    # In containers there is often no other user; that the node's own cores are more or fewer than
    # the ranks is no reason to refuse. Open MPI 4's names, then those of 5; others ignore them.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
}


def mpi(place: Place) -> Found:
    """Check that MPI starts processes that know of each other; measure between them.

    Nothing is checked without mpirun, and nothing measured without mpicc.
    """
    found = Found()
    if ask(["mpirun", "--version"]) is None:
        return found
    compiler = find_program("mpicc")
    if _two_processes(found) and compiler is not None:
        with tempfile.TemporaryDirectory(prefix="trainyard-probe-") as folder:
            measure_mpi(found, compiler, Path(folder), quick=place.quick)
    return found


def _two_processes(found: Found) -> bool:
    probe = (
        "import os, numpy; a = numpy.ones((64, 64)); assert (a @ a)[0, 0] == 64; "
        "print(os.environ.get('OMPI_COMM_WORLD_SIZE') or os.environ.get('PMI_SIZE'))"
    )
    code, out, words = _mpirun(2, [sys.executable, "-c", probe])
    good = code == 0 and out.split() == ["2", "2"]
    found.fact("mpi.two_processes", "runs" if good else "fails", source="mpirun -n 2")
    if not good:
        what = f"two processes with BLAS: {_last(words)}"
        found.problem("mpi", what, "see mpirun's message by hand")
    return good


def measure_mpi(found: Found, compiler: str, folder: Path, *, quick: bool) -> None:
    """Build ``mpi_allreduce.c`` in *folder*, run it on this node's cores and add what it reached.

    What goes wrong is a problem in *found*.
    """
    ranks = min(max(RANKS, usable_cores()), 4)
    sizes = SIZES[::2] if quick else SIZES
    try:
        program = build(compiler, "mpi_allreduce.c", folder / "mpi_allreduce", ())
    except BuildError as error:
        found.problem("mpi", str(error), "install the MPI's headers, such as libopenmpi-dev")
        return
    words = [str(program), str(ranks), str(repeats(quick=quick)), *map(str, sizes)]
    code, out, told = _mpirun(ranks, words)
    times = _parsed(out)
    if code or len(times) != len(sizes) + 1:
        what = f"all-reduce between {ranks} ranks: {_last(told)}"
        found.problem("mpi", what, "see that mpicc and mpirun are of the same MPI")
        return
    prefix = f"mpi.{ranks}_ranks"
    for (name, size), seconds in times.items():
        timed = Timed(seconds=seconds, foreign_cores=0.0)
        if name == "point_to_point":
            found.measurements.append(of_ping(prefix, timed))
        else:
            found.measurements += of_size(prefix, size, timed, ranks)


def _parsed(out: str) -> dict[tuple[str, int], tuple[float, ...]]:
    """Return the seconds by (measurement, bytes); other lines are the library's own words."""
    rows = [line.split() for line in out.splitlines()]
    return {
        (row[0], int(row[1])): tuple(float(word) for word in row[2:])
        for row in rows
        if row and row[0] in {"all_reduce", "point_to_point"}
    }


def _last(words: str) -> str:
    """Return the last line that says something: Open MPI frames its messages in rules."""
    lines = [line.strip() for line in words.splitlines() if line.strip(" \t-=*")]
    return lines[-1] if lines else "no message"


def _mpirun(ranks: int, command: Sequence[str]) -> tuple[int, str, str]:
    """Return exit code, output and messages of *command* on *ranks* processes of this node."""
    process = subprocess.Popen(
        ["mpirun", "-n", str(ranks), *command],
        env=environment(os.environ, ranks),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, words = process.communicate(timeout=_RUN_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun passes it on; killed, it would leave its ranks behind
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return 1, "", f"no end within {_RUN_S:.0f} s"
    return process.returncode, out, words


def environment(
    environ: Mapping[str, str], ranks: int, *, allowed: int | None = None, cores: int | None = None
) -> dict[str, str]:
    """Return *environ* for an mpirun of *ranks* that stays on this node's usable cores.

    *allowed* and *cores*: what this process may use and what the node has, looked up by default.
    """
    allowed = usable_cores() if allowed is None else allowed
    cores = os.cpu_count() if cores is None else cores
    made = {name: value for name, value in environ.items() if not name.startswith(_FOREIGN)}
    made |= _ALONE
    if allowed != cores:  # Open MPI would bind its ranks to cores that are somebody else's
        made |= {
            "OMPI_MCA_hwloc_base_binding_policy": "none",
            "PRTE_MCA_hwloc_default_binding_policy": "none",
        }
    if ranks > allowed:  # a rank that waits must not keep the other from the core
        made["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return made
