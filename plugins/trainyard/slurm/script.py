"""The sbatch script of a run, or of an array of runs, as a pure function. Golden-tested.

The script is the same for every attempt. Its wrapper leaves evidence that needs no Slurm to read:
``job.json`` when an attempt starts, ``attempts/<job>-<restarts>.json`` when it starts and ends,
``exit_code`` when it ends, each by temporary file and rename, also when Slurm's SIGTERM ends it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Site
from trainyard.slurm import wrapper
from trainyard.slurm.command import Part, srun_command
from trainyard.slurm.directives import (
    check_fits,
    directive,
    header,
    job_name,
    slurm_of,
    starts_ranks,
)
from trainyard.slurm.options import JobOptions
from trainyard.slurm.site import Rendezvous


def render(part: Part, site: Site, options: JobOptions) -> tuple[tuple[str, ...], str]:
    """Return the srun command and the whole script of one run.

    Raises ``ConfigurationError`` for names that no script can hold, sizes that no node has, and a
    script that Slurm would refuse.
    """
    check_fits(part.spec, site, options)
    argv = srun_command(part, site)
    lines = ["#!/bin/bash", f"# run {job_name_of_run(part.paths)}"]
    lines += header(part.spec, site, part.paths, options)
    lines += [wrapper.FUNCTIONS, *_run(part, site, argv)]
    return argv, _checked("\n".join(lines) + "\n", site)


def render_array(
    parts: Sequence[Part], site: Site, paths: RunPaths, options: JobOptions
) -> tuple[tuple[str, ...], str]:
    """Return the first element's command and the script of an array; *paths* are the array's own.

    Every element must need the same nodes and CPUs: Slurm gives all elements one size.
    """
    if not parts:
        raise ConfigurationError("an array needs at least one run")
    single = _without_throttle(options)
    for part in parts:
        check_fits(part.spec, site, single)
    sizes = {tuple(_sized(part, site, single)) for part in parts}
    if len(sizes) > 1:
        raise ConfigurationError(
            "the runs of an array need different nodes, CPUs or GPUs, and Slurm gives all "
            "elements one size; submit one array per size"
        )
    first = parts[0]
    lines = ["#!/bin/bash", f"# array {job_name_of_run(paths)} of {len(parts)} runs"]
    lines += _array_header(first, site, paths, options, len(parts))
    lines += [wrapper.FUNCTIONS, 'case "$SLURM_ARRAY_TASK_ID" in']
    for index, part in enumerate(parts):
        lines += [f"{index})", *_run(part, site, srun_command(part, site), own_logs=True), ";;"]
    lines += ["esac", 'echo "no element $SLURM_ARRAY_TASK_ID" >&2', "exit 75"]
    return srun_command(first, site), _checked("\n".join(lines) + "\n", site)


def _array_header(
    first: Part, site: Site, paths: RunPaths, options: JobOptions, count: int
) -> list[str]:
    single = _without_throttle(options)
    lines = [
        line
        for line in header(first.spec, site, paths, single)
        if not line.startswith(("#SBATCH --output=", "#SBATCH --error="))
    ]
    throttle = f"%{options.throttle}" if options.throttle else ""
    # One file per element for what comes before its own logs are open; %a is its index.
    log = directive("output", f"{paths.run_dir}/element-".replace("%", "%%") + "%a.log")
    return [*lines, log, directive("array", f"0-{count - 1}{throttle}")]


def _sized(part: Part, site: Site, options: JobOptions) -> list[str]:
    wanted = ("nodes", "ntasks-per-node", "cpus-per-task", "gres", "gpus-per-node")
    lines = header(part.spec, site, part.paths, options)
    return [line for line in lines if line.startswith(tuple(f"#SBATCH --{w}=" for w in wanted))]


def _without_throttle(options: JobOptions) -> JobOptions:
    return replace(options, throttle=0)


def job_name_of_run(paths: RunPaths) -> str:
    """Return the run id, checked to be one word: it stands in a comment line."""
    return job_name(paths, JobOptions())


def _run(part: Part, site: Site, argv: tuple[str, ...], *, own_logs: bool = False) -> list[str]:
    slurm, quote = slurm_of(site), shlex.quote
    lines = [f"run_dir={quote(str(part.paths.run_dir))}"]
    if own_logs:
        logs = f">>{quote(str(part.paths.stdout))} 2>>{quote(str(part.paths.stderr))}"
        lines.append(f'mkdir -p "$run_dir" && exec {logs} || exit 72')
    lines += ["begin", *(f"export {name}={quote(_value(value))}" for name, value in part.env)]
    lines += [f"load {quote(module)}" for module in slurm.modules]
    lines += [f"step eval {quote(line)}" for line in slurm.setup]
    if part.spec.nodes > 1 or starts_ranks(part.spec, site):
        address = "nodeaddr" if slurm.rendezvous is Rendezvous.NODEADDR else "hostname"
        lines.append(f"rendezvous {address} {slurm.rendezvous_port} {slurm.rendezvous_ports}")
    return [*lines, f"run {shlex.join(argv)}"]


def _value(value: str) -> str:
    if re.search(r"[\0\r\n]", value):
        raise ConfigurationError(
            f"environment value {value!r}: must be one line; put longer text into a file"
        )
    return value


def _checked(script: str, site: Site) -> str:
    """Refuse a script that Slurm would: too long, or with a directive after the first command."""
    largest = slurm_of(site).largest_script_bytes
    size = len(script.encode())
    if size >= largest:
        raise ConfigurationError(
            f"the script is {size} bytes and site {site.name!r} takes less than {largest} "
            "(max_script_size in SchedulerParameters); split the array"
        )
    return script
