"""``launch(spec, site, paths)``: how a run is started, as a pure function with golden files.

Launchers differ in the prefix before ``-m trainer spec.json run_dir`` and in the text around it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.contract import Profiler, RunSpec
from trainyard.apptainer.prefix import image_environment, prefix
from trainyard.docker import render as containers
from trainyard.docker import wrapper
from trainyard.errors import ConfigurationError
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site
from trainyard.slurm.command import Part
from trainyard.slurm.options import JobOptions
from trainyard.slurm.script import render, render_array


@dataclass(kw_only=True, slots=True, frozen=True)
class Launch:
    """How to start one run: complete, so that a backend decides nothing."""

    argv: tuple[str, ...]
    """The command, wrapper excluded."""
    env: tuple[tuple[str, str], ...]
    """Environment variables added for the command, sorted."""
    script: str
    """Text of launch.sh: runs argv, then writes its exit code in one step."""
    containers: tuple[containers.Creation, ...] = ()
    """The containers that execute the script; none for other launchers."""


_PLAIN = JobOptions()


def launch(
    spec: RunSpec,
    site: Site,
    paths: RunPaths,
    options: JobOptions = _PLAIN,
    *,
    program: tuple[str, ...] = (),
) -> Launch:
    """Return how *spec* is started on *site* with its files in *paths*.

    Pure: reads no file, no clock and no environment. *options* are for Slurm alone. *program*:
    what the trainer's python executes in a run of that size, such as the probes; empty: training.
    Raises ``ConfigurationError`` when the site cannot run the spec.
    """
    _check_fits(spec, site)
    program = program or trainer_arguments(spec, site, paths)
    if site.launcher is Launcher.SLURM:
        argv, script = render(_part(spec, site, paths, program), site, options)
        return Launch(argv=argv, env=environment(spec, site), script=script)
    if site.launcher is Launcher.DOCKER:
        return _in_containers(spec, site, paths, program)
    argv = _RENDERERS[site.launcher](spec, site, paths, program)
    env = environment(spec, site)
    return Launch(argv=argv, env=env, script=_script(argv, env, paths))


def _in_containers(spec: RunSpec, site: Site, paths: RunPaths, program: tuple[str, ...]) -> Launch:
    containers.check_fits(spec, site)
    argv, env = _process(spec, site, paths, program), environment(spec, site)
    return Launch(
        argv=argv,
        env=env,
        script=wrapper.script(argv, paths),
        containers=containers.creations(spec, site, paths, env),
    )


def launch_array(
    runs: Sequence[tuple[RunSpec, RunPaths]],
    site: Site,
    paths: RunPaths,
    options: JobOptions = _PLAIN,
) -> Launch:
    """Return how many runs start as one Slurm job array; element i is ``runs[i]``. Pure.

    *paths* name the array's own folder. Raises ``ConfigurationError`` when a run does not fit the
    site, or when the runs are of different sizes.
    """
    for spec, _ in runs:
        _check_fits(spec, site)
    parts = [_part(spec, site, own, trainer_arguments(spec, site, own)) for spec, own in runs]
    argv, script = render_array(parts, site, paths, options)
    return Launch(argv=argv, env=parts[0].env, script=script)


def _part(spec: RunSpec, site: Site, paths: RunPaths, program: tuple[str, ...]) -> Part:
    return Part(
        spec=spec,
        paths=paths,
        env=environment(spec, site),
        trainer=program,
    )


def _check_fits(spec: RunSpec, site: Site) -> None:
    if spec.ranks > site.largest_ranks:
        raise ConfigurationError(
            f"ranks = {spec.ranks}: site {site.name!r} runs at most {site.largest_ranks}; "
            "choose fewer ranks or raise largest_ranks in the site file"
        )
    if spec.profiler is Profiler.NCU and not site.gpus_per_node:
        raise ConfigurationError(
            f"profiler = 'ncu' counts on GPUs and site {site.name!r} gives a run none; choose nsys "
            "or torch, or a GPU site"
        )
    if site.launcher is Launcher.PROCESS and spec.nodes > 1:
        raise ConfigurationError(
            f"nodes = {spec.nodes}: site {site.name!r} starts plain processes on one host; "
            "set nodes = 1 or choose a cluster site"
        )


KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""glibc gives the activations of each step back to the kernel and faults them in again at the next:
a third of a step of ``resnet18_small`` on a CPU, and most of its variation (docs/decisions/0006).
32 MiB is the largest threshold that glibc takes (mallopt(3), M_MMAP_THRESHOLD)."""


def environment(spec: RunSpec, site: Site) -> tuple[tuple[str, str], ...]:
    """Return the environment variables of a run on *site*.

    OMP_NUM_THREADS is always set: torchrun sets it to 1 on its own only for more than one rank,
    which would inflate the one-rank base.
    """
    values = {"OMP_NUM_THREADS": str(spec.threads_per_rank), "PYTHONUNBUFFERED": "1"}
    if site.network_interface:
        values["GLOO_SOCKET_IFNAME"] = site.network_interface
        values["NCCL_SOCKET_IFNAME"] = site.network_interface
    if not site.gpus_per_node:
        values["CUDA_VISIBLE_DEVICES"] = ""
        values |= KEEP_MEMORY
    values |= dict(site.environment)
    values |= image_environment(site)
    return tuple(sorted(values.items()))


def trainer_arguments(spec: RunSpec, site: Site, paths: RunPaths) -> tuple[str, ...]:
    """Return the part of the command that every launcher shares."""
    data = f"{site.data_dir}/{spec.dataset_digest}" if spec.dataset_digest else ""
    base = ("-m", "trainer", str(paths.spec), str(paths.run_dir))
    if not data:
        return base
    cache = ("--cache", site.cache_dir, "--cache-limit", site.cache_limit)
    return (*base, "--data", data, *(cache if site.cache_dir else ()))


_BACKSTOP_S = 120
_LAST_GRACE_S = 30


def _process(
    spec: RunSpec, site: Site, paths: RunPaths, arguments: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the command of a plain process, which ends even when nobody is left to end it.

    Whoever waits for the run ends it at the site's limit; coreutils' timeout does a little later.
    """
    limit = site.run_timeout_s + _BACKSTOP_S
    backstop = ("timeout", f"--kill-after={_LAST_GRACE_S}", str(limit))
    before = prefix(spec, site, paths, dict(environment(spec, site)))
    if not spec.distributed:
        return (*backstop, *before.around((site.python, *arguments)))
    torchrun = (
        "-m",
        "torch.distributed.run",
        *(containers.rendezvous(spec, site, paths) if site.docker else ("--standalone",)),
        "--max-restarts",
        "0",
        "--nproc-per-node",
        str(spec.ranks_per_node),
    )
    return (*backstop, *before.around((site.python, *torchrun, *arguments)))


_RENDERERS: dict[
    Launcher, Callable[[RunSpec, Site, RunPaths, tuple[str, ...]], tuple[str, ...]]
] = {
    Launcher.PROCESS: _process,
}


def _script(argv: tuple[str, ...], env: tuple[tuple[str, str], ...], paths: RunPaths) -> str:
    quote = shlex.quote
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in env)
    partial = quote(f"{paths.exit_code}.partial")
    return (
        "#!/bin/bash\n"
        f"# run {paths.run_id}\n"
        f"cd {quote(str(paths.run_dir))} || exit 72\n"
        f"{exports}"
        f"{shlex.join(argv)} >{quote(str(paths.stdout))} 2>{quote(str(paths.stderr))}\n"
        "code=$?\n"
        f'echo "$code" >{partial} && mv {partial} {quote(str(paths.exit_code))}\n'
        'exit "$code"\n'
    )
