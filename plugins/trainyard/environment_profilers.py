"""Is the profiler that runs shall use there and permitted: asked where the runs happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainyard.environment import Checks, Finding
from trainyard.errors import UnavailableError
from trainyard.settings import Settings
from trainyard.sites import Launcher, Site
from trainyard.store import Verdict

CODE = "from trainer import profilers; profilers.main()"
"""What the site's python runs; prints one JSON object."""

Look = Callable[[str], Mapping[str, object]]
"""Runs code with the site's python, where its runs happen, and returns the JSON it prints."""


_FOLDERS = {"nsys": "/opt/nvidia/nsight-systems", "ncu": "/opt/nvidia/nsight-compute"}
"""Where NVIDIA's packages put the tools on a host, and where the trainer looks for them."""


def profiler_checks(profiler: str, look: Look) -> Checks:
    """Return the check that *profiler* (nsys, ncu) is there and permitted."""

    def check(_settings: Settings, site: Site) -> Finding:
        try:
            found = look(CODE)
        except UnavailableError as error:
            if site.launcher is not Launcher.SLURM:
                raise
            return Finding(
                verdict=Verdict.WARNING,
                measured="could not be asked on the login node",
                requirement=_requirement(profiler),
                fix=f"{error}. Runs look for themselves before they train",
            )
        return judge(profiler, site, found)

    return {f"profiler {profiler}": check}


def judge(profiler: str, site: Site, found: Mapping[str, object]) -> Finding:
    """Return what was found of *profiler*.

    On a cluster the question is asked on the login node: what is missing there may come with a
    module in the job, so it is a warning; the run itself refuses before it trains.
    """
    path, problem = str(found.get(profiler, "")), str(found.get(f"{profiler}_problem", ""))
    if path and not problem:
        return Finding(verdict=Verdict.PASSED, measured=path, requirement=_requirement(profiler))
    on_node = site.launcher is not Launcher.SLURM
    advice = "" if path else f"{how_to_get(profiler, site)}. "
    return Finding(
        verdict=Verdict.FAILED if on_node else Verdict.WARNING,
        measured="not permitted" if path else "not found",
        requirement=_requirement(profiler),
        fix=f"{problem}. {advice}Without it: profiler = 'torch', which is part of PyTorch",
    )


def _requirement(profiler: str) -> str:
    return f"{profiler}, permitted to profile"


def how_to_get(profiler: str, site: Site) -> str:
    """Return the line of the site file with which runs of *site* find *profiler*."""
    folder = _FOLDERS[profiler]
    mount = f"{folder}:{folder}:ro"
    if site.docker is not None:
        proxied = site.docker.host.startswith(("tcp:", "http:", "https:"))
        policy = f'; a socket proxy must allow it: binds = ["{folder}"] in its policy'
        return (
            f"For containers of site {site.name!r}: install it on the engine's host and add "
            f'"{mount}" to docker.mounts{policy if proxied else ""}'
        )
    if site.apptainer is not None:
        return (
            f'For the image of site {site.name!r}: add "{mount}" to apptainer.binds; where the '
            "nodes have it elsewhere, that folder of versions in place of the first"
        )
    if site.slurm is not None:
        return (
            f"For jobs of site {site.name!r}: name its module in slurm.modules (module spider "
            f"nsight), or add to slurm.setup: export PATH=/where/{profiler}/is:$PATH"
        )
    return (
        f"On the host of site {site.name!r}: install it under {folder}, or on the PATH of workers"
    )
