"""The ``srun`` command of a run: one torchrun per node, or one task per rank. Pure.

Inside out: the trainer, which puts itself under a profiler; torchrun around a node's ranks;
Apptainer around that; srun, once per node, around all. With MPI srun starts each rank itself.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from trainer.contract import RunSpec
from trainyard.apptainer.prefix import prefix
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.directives import cpus_per_node, slurm_of, starts_ranks, tasks_per_node

# The shell on each node fills these in: who hosts the rendezvous is not known before.
_RENDEZVOUS = '--rdzv-endpoint="$TRAINYARD_RENDEZVOUS" --rdzv-conf="is_host=$((SLURM_NODEID == 0))"'

Environment = tuple[tuple[str, str], ...]


@dataclass(kw_only=True, slots=True, frozen=True)
class Part:
    """One run of a script: what ``launch`` knows of it before Slurm comes in."""

    spec: RunSpec
    paths: RunPaths
    env: Environment
    """Environment variables of the run."""
    trainer: tuple[str, ...]
    """``-m trainer spec.json run_dir …``"""


def srun_command(part: Part, site: Site) -> tuple[str, ...]:
    """Return the srun command of *part*."""
    spec = part.spec
    tasks = tasks_per_node(spec, site)
    return (
        "srun",
        f"--nodes={spec.nodes}",
        f"--ntasks={spec.nodes * tasks}",
        f"--ntasks-per-node={tasks}",
        # Since Slurm 22.05 srun does not take this over from the job.
        f"--cpus-per-task={cpus_per_node(spec) // tasks}",
        *_mpi(site),
        "--kill-on-bad-exit=1",
        f"--wait={slurm_of(site).wait_time_s}",
        "--export=ALL",
        *_node_command(part, site),
    )


def _mpi(site: Site) -> tuple[str, ...]:
    """Return what gives each rank its MPI; ranks in blocks, since the first one is the host."""
    container = site.apptainer
    if container is None or not container.starts_ranks:
        return ()
    return (f"--mpi={container.mpi_type}", "--distribution=block")


def _node_command(part: Part, site: Site) -> tuple[str, ...]:
    spec, trainer = part.spec, part.trainer
    before = prefix(spec, site, part.paths, (name for name, _ in part.env))
    if not spec.distributed or starts_ranks(spec, site):
        return before.around((site.python, *trainer))
    count = f"--nproc-per-node={spec.ranks_per_node}"
    torchrun = (site.python, "-m", "torch.distributed.run", "--max-restarts=0", count)
    if spec.nodes == 1:
        return before.around((*torchrun, "--standalone", *trainer))
    meeting = (f"--nnodes={spec.nodes}", "--rdzv-backend=c10d", f"--rdzv-id={part.paths.run_id}")
    words = shlex.join((*torchrun, *meeting))
    return before.around_text(f"{words} {_RENDEZVOUS} {shlex.join(trainer)}")
