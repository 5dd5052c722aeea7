"""Is the profiler that runs shall use there and permitted: asked where the runs happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainyard.environment import Checks, Finding
from trainyard.settings import Settings
from trainyard.sites import Launcher, Site
from trainyard.store import Verdict

CODE = "from trainer import profilers; profilers.main()"
"""What the site's python runs; prints one JSON object."""

Look = Callable[[str], Mapping[str, object]]
"""Runs code with the site's python, where its runs happen, and returns the JSON it prints."""


def profiler_checks(profiler: str, look: Look) -> Checks:
    """Return the check that *profiler* (nsys, ncu) is there and permitted."""

    def check(_settings: Settings, site: Site) -> Finding:
        return judge(profiler, site, look(CODE))

    return {f"profiler {profiler}": check}


def judge(profiler: str, site: Site, found: Mapping[str, object]) -> Finding:
    """Return what was found of *profiler*.

    On a cluster the question is asked on the login node: what is missing there may come with a
    module in the job, so it is a warning; the run itself refuses before it trains.
    """
    path, problem = str(found.get(profiler, "")), str(found.get(f"{profiler}_problem", ""))
    if path and not problem:
        return Finding(
            verdict=Verdict.PASSED, measured=path, requirement=f"{profiler}, permitted to profile"
        )
    on_node = site.launcher is not Launcher.SLURM
    return Finding(
        verdict=Verdict.FAILED if on_node else Verdict.WARNING,
        measured="not permitted" if path else "not found",
        requirement=f"{profiler}, permitted to profile",
        fix=f"{problem}. Without it: profiler = 'torch', which is part of PyTorch",
    )
