"""The ``srun`` command of a run: one torchrun per node, each rank plain or under a profiler. Pure.

Inside out: the trainer; a profiler around each rank; torchrun around the ranks of a node;
Apptainer around that; srun, once per node, around all.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from trainer.contract import RunSpec
from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.directives import cpus_per_node, slurm_of, wants_gpus
from trainyard.slurm.options import JobOptions, Profiler

# The shell on each node fills these in: who hosts the rendezvous is not known before.
_RENDEZVOUS = '--rdzv-endpoint="$TRAINYARD_RENDEZVOUS" --rdzv-conf="is_host=$((SLURM_NODEID == 0))"'

_NCU_SECTIONS = (
    "SpeedOfLight",
    "Occupancy",
    "MemoryWorkloadAnalysis",
    "ComputeWorkloadAnalysis",
)


def srun_command(
    spec: RunSpec, site: Site, paths: RunPaths, options: JobOptions, trainer: Sequence[str]
) -> tuple[str, ...]:
    """Return the srun command; *trainer* is the shared part, ``-m trainer spec.json run_dir``."""
    return (
        "srun",
        f"--nodes={spec.nodes}",
        f"--ntasks={spec.nodes}",
        "--ntasks-per-node=1",
        # Since Slurm 22.05 srun does not take this over from the job.
        f"--cpus-per-task={cpus_per_node(spec)}",
        "--kill-on-bad-exit=1",
        "--export=ALL",
        *_node_command(spec, site, paths, options, trainer),
    )


def _node_command(
    spec: RunSpec, site: Site, paths: RunPaths, options: JobOptions, trainer: Sequence[str]
) -> tuple[str, ...]:
    prefix = _container(spec, site)
    rank = (*_profiler(spec, site, paths, options), site.python, *trainer)
    if not spec.distributed:
        return (*prefix, *rank)
    torchrun = (*prefix, site.python, "-m", "torch.distributed.run", "--max-restarts=0")
    torchrun += (f"--nproc-per-node={spec.ranks_per_node}",)
    # torchrun starts "-m trainer" by itself; anything in front makes it a program of its own.
    ranks = trainer if rank[0] == site.python else ("--no-python", *rank)
    if spec.nodes == 1:
        return (*torchrun, "--standalone", *ranks)
    torchrun += (f"--nnodes={spec.nodes}", "--rdzv-backend=c10d", f"--rdzv-id={paths.run_id}")
    text = f"exec {shlex.join(torchrun)} {_RENDEZVOUS} {shlex.join(ranks)}"
    return ("bash", "-c", text)


def _container(spec: RunSpec, site: Site) -> tuple[str, ...]:
    slurm = slurm_of(site)
    if not slurm.image:
        return ()
    binds: list[str] = []
    for folder in dict.fromkeys((site.runs_dir, site.data_dir, *slurm.binds)):
        if "," in folder:
            raise ConfigurationError(
                f"site {site.name!r}: Apptainer cannot bind {folder!r}: it reads a comma as two "
                "folders; choose another name"
            )
        binds += ["--bind", folder]
    nvidia = ("--nv",) if wants_gpus(spec, site) else ()
    return ("apptainer", "exec", *nvidia, *binds, slurm.image)


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
