"""``#SBATCH`` lines: values quoted as sbatch reads them, or refused. Pure.

Sbatch reads its lines by rules of its own, tried on 22.05: a blank ends a value, ``#`` begins a
comment, a backslash is dropped, both quotes quote, and ``%`` in a file name is replaced.
"""

from __future__ import annotations

import math
import re

from trainer.contract import Device, RunSpec
from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm.options import JOB_NAME, JobOptions
from trainyard.slurm.site import GpuOption, SlurmSite

_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+*&|()\[\]-]+")


def directive(option: str, value: str = "") -> str:
    """Return one ``#SBATCH --option=value`` line that sbatch reads back as *value*.

    Raises ``ConfigurationError`` for what no such line can hold: a line break or other control
    character, a backslash, or both kinds of quotes.
    """
    if not value:
        return f"#SBATCH --{option}"
    if any(ord(character) < ord(" ") or ord(character) == 127 for character in value):  # noqa: PLR2004 - DEL
        raise ConfigurationError(
            f"--{option} = {value!r}: a line break or control character cannot stand in an "
            "#SBATCH line; choose another name"
        )
    if "\\" in value or ('"' in value and "'" in value):
        raise ConfigurationError(
            f"--{option} = {value!r}: sbatch cannot read a backslash, or both kinds of quotes; "
            "choose another name"
        )
    if _PLAIN.fullmatch(value):
        return f"#SBATCH --{option}={value}"
    quote = "'" if '"' in value else '"'
    return f"#SBATCH --{option}={quote}{value}{quote}"


def file_directive(option: str, path: str) -> str:
    """Return a line whose value is a file name: sbatch would replace ``%j`` and the like."""
    return directive(option, path.replace("%", "%%"))


def header(spec: RunSpec, site: Site, paths: RunPaths, options: JobOptions) -> list[str]:
    """Return the directives of a single job, files included."""
    return [
        *_identity(paths, options),
        *_place(slurm_of(site), options),
        *_size(spec, site, slurm_of(site)),
        *_life(site, slurm_of(site), options),
        directive("chdir", str(paths.run_dir)),
        file_directive("output", str(paths.stdout)),
        file_directive("error", str(paths.stderr)),
        directive("open-mode", "append"),
    ]


def slurm_of(site: Site) -> SlurmSite:
    """Return the site's Slurm record; raise when it has none."""
    if site.slurm is None:
        raise ConfigurationError(
            f"site {site.name!r}: launcher = 'slurm' needs a [{site.name}.slurm] table"
        )
    return site.slurm


def job_name(paths: RunPaths, options: JobOptions) -> str:
    """Return the job's name: the key it is searched by."""
    name = options.name or paths.run_id
    if not JOB_NAME.fullmatch(name):
        raise ConfigurationError(
            f"run id {name!r}: must be 1 to 200 of A-Z a-z 0-9 . _ - to name a job; "
            "make it with run_id_of()"
        )
    return name


def _identity(paths: RunPaths, options: JobOptions) -> list[str]:
    name = job_name(paths, options)
    return [
        directive("job-name", name),
        directive("comment", options.comment or f"trainyard key={name}"),
    ]


def _place(slurm: SlurmSite, options: JobOptions) -> list[str]:
    tier = slurm.tier(options.tier)
    excluded = dict.fromkeys((*slurm.exclude_nodes, *options.exclude_nodes))
    values = {
        "clusters": slurm.cluster,
        "partition": tier.partition or slurm.partition,
        "account": slurm.account,
        "qos": tier.qos or slurm.qos,
        "constraint": slurm.constraint,
        "exclude": ",".join(excluded),
        "nice": str(tier.nice) if tier.nice else "",
    }
    return [directive(option, value) for option, value in values.items() if value]


def cpus_per_node(spec: RunSpec) -> int:
    """Return the CPUs one node's ranks keep busy, loader workers included."""
    return spec.ranks_per_node * (spec.threads_per_rank + spec.loader_workers)


def starts_ranks(spec: RunSpec, site: Site) -> bool:
    """Return whether srun starts each rank in a container of its own, without torchrun."""
    return site.apptainer is not None and site.apptainer.starts_ranks and spec.distributed


def tasks_per_node(spec: RunSpec, site: Site) -> int:
    """Return how many tasks srun starts on a node: each rank, or one torchrun for them all."""
    return spec.ranks_per_node if starts_ranks(spec, site) else 1


def wants_gpus(spec: RunSpec, site: Site) -> bool:
    """Return whether each rank gets a GPU."""
    return bool(site.gpus_per_node) and spec.device is not Device.CPU


def _size(spec: RunSpec, site: Site, slurm: SlurmSite) -> list[str]:
    tasks = tasks_per_node(spec, site)
    lines = [
        directive("nodes", str(spec.nodes)),
        directive("ntasks-per-node", str(tasks)),
        directive("cpus-per-task", str(cpus_per_node(spec) // tasks)),
    ]
    if wants_gpus(spec, site):
        count = str(spec.ranks_per_node)
        typed = f"{slurm.gpu_type}:{count}" if slurm.gpu_type else count
        gres = slurm.gpu_option is GpuOption.GRES
        lines.append(directive(slurm.gpu_option.value, f"gpu:{typed}" if gres else typed))
    if slurm.memory_mb:
        lines.append(directive("mem", f"{slurm.memory_mb}M"))
    if slurm.exclusive:
        lines.append(directive("exclusive"))
    return lines


def _life(site: Site, slurm: SlurmSite, options: JobOptions) -> list[str]:
    minutes = slurm.time_limit_min or math.ceil(site.run_timeout_s / 60)
    requeue = slurm.requeue if options.requeue is None else options.requeue
    lines = [directive("time", str(minutes)), directive("requeue" if requeue else "no-requeue")]
    if slurm.grace_s:
        lines.append(directive("signal", f"B:TERM@{slurm.grace_s}"))
    waits = [str(dependency) for dependency in options.dependencies]
    waits += ["singleton"] if options.singleton else []
    if waits:
        lines.append(directive("dependency", ",".join(waits)))
        lines.append(directive("kill-on-invalid-dep", "yes" if options.kill_unsatisfied else "no"))
    if options.hold:
        lines.append(directive("hold"))
    # The submitter's environment stays at home: it may hold secrets and is never the same twice.
    return [*lines, directive("export", "NONE")]


def check_fits(spec: RunSpec, site: Site, options: JobOptions) -> None:
    """Refuse what no node of the site could ever start."""
    cpus = cpus_per_node(spec)
    if cpus > site.cores:
        raise ConfigurationError(
            f"{spec.ranks_per_node} ranks per node x ({spec.threads_per_rank} threads + "
            f"{spec.loader_workers} loader workers) = {cpus} CPUs: site {site.name!r} has "
            f"{site.cores} on a node, so the job could never start; choose more nodes, fewer "
            "threads or fewer workers"
        )
    if wants_gpus(spec, site) and spec.ranks_per_node > site.gpus_per_node:
        raise ConfigurationError(
            f"{spec.ranks_per_node} ranks per node: site {site.name!r} has {site.gpus_per_node} "
            "GPUs on a node and a rank needs one; choose more nodes or fewer ranks"
        )
    if options.throttle:
        raise ConfigurationError(
            f"throttle = {options.throttle} is for an array; launch_array() takes it"
        )
