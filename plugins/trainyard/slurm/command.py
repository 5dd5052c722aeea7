"""The ``srun`` command of a run: one torchrun per node, or one task per rank. Pure.

Inside out: the trainer; a profiler around each rank; torchrun around the ranks of a node;
Apptainer around that; srun, once per node, around all. With MPI srun starts each rank itself.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from trainer.contract import RunSpec
from trainyard.apptainer.prefix import prefix
from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.directives import cpus_per_node, starts_ranks, tasks_per_node, wants_gpus
from trainyard.slurm.options import JobOptions, Profiler

# The shell on each node fills these in: who hosts the rendezvous is not known before.
_RENDEZVOUS = '--rdzv-endpoint="$TRAINYARD_RENDEZVOUS" --rdzv-conf="is_host=$((SLURM_NODEID == 0))"'

_NCU_SECTIONS = (
    "SpeedOfLight",
    "Occupancy",
    "MemoryWorkloadAnalysis",
    "ComputeWorkloadAnalysis",
)


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


def srun_command(part: Part, site: Site, options: JobOptions) -> tuple[str, ...]:
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
        "--export=ALL",
        *_node_command(part, site, options),
    )


def _mpi(site: Site) -> tuple[str, ...]:
    """Return what gives each rank its MPI; ranks in blocks, since the first one is the host."""
    container = site.apptainer
    if container is None or not container.starts_ranks:
        return ()
    return (f"--mpi={container.mpi_type}", "--distribution=block")


def _node_command(part: Part, site: Site, options: JobOptions) -> tuple[str, ...]:
    spec, trainer = part.spec, part.trainer
    before = prefix(spec, site, part.paths, (name for name, _ in part.env))
    rank = (*_profiler(spec, site, part.paths, options), site.python, *trainer)
    if not spec.distributed or starts_ranks(spec, site):
        return before.around(rank)
    count = f"--nproc-per-node={spec.ranks_per_node}"
    torchrun = (site.python, "-m", "torch.distributed.run", "--max-restarts=0", count)
    # torchrun starts "-m trainer" by itself; anything in front makes it a program of its own.
    ranks = trainer if rank[0] == site.python else ("--no-python", *rank)
    if spec.nodes == 1:
        return before.around((*torchrun, "--standalone", *ranks))
    meeting = (f"--nnodes={spec.nodes}", "--rdzv-backend=c10d", f"--rdzv-id={part.paths.run_id}")
    words = shlex.join((*torchrun, *meeting))
    return before.around_text(f"{words} {_RENDEZVOUS} {shlex.join(ranks)}")


def _profiler(spec: RunSpec, site: Site, paths: RunPaths, options: JobOptions) -> tuple[str, ...]:
    rank = "%q{RANK}" if spec.distributed else "0"
    output = f"{paths.profiles}/rank{rank}"
    if options.profiler is Profiler.NSYS:
        return ("nsys", "profile", *_nsys(spec, site), "--force-overwrite=true", "-o", output)
    if options.profiler is Profiler.NCU:
        _check_ncu(spec, site)
        chosen = [part for name in _NCU_SECTIONS for part in ("--section", name)]
        fixed = ("--profile-from-start", "off", "--clock-control", "none", "--force-overwrite")
        return ("ncu", *fixed, *chosen, "-o", output)
    return ()


def _nsys(spec: RunSpec, site: Site) -> tuple[str, ...]:
    if not wants_gpus(spec, site):
        # CPU sampling makes gigabytes in seconds; without a GPU nothing calls cudaProfilerStart.
        return ("--trace=nvtx,osrt", "--sample=none", "--cpuctxsw=none")
    capture = ("--capture-range=cudaProfilerApi", "--capture-range-end=stop")
    return ("--trace=cuda,nvtx,osrt", "--cuda-graph-trace=node", "--sample=none", *capture)


def _check_ncu(spec: RunSpec, site: Site) -> None:
    if not wants_gpus(spec, site):
        raise ConfigurationError(
            f"profiler = 'ncu' counts on GPUs and site {site.name!r} gives this run none; "
            "choose nsys, or a GPU site"
        )
    if spec.ranks > 1:
        raise ConfigurationError(
            f"profiler = 'ncu' with {spec.ranks} ranks: ncu replays each kernel, and a replayed "
            "collective waits for ever; choose 1 rank, or nsys"
        )
