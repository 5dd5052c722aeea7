"""What a run's containers used, from its folder alone."""

from __future__ import annotations

from datetime import datetime

from trainyard.backends.base import JobUsage
from trainyard.docker.files import ContainerFiles, Ended, read_planned
from trainyard.paths import RunPaths


def usage_of(paths: RunPaths) -> tuple[JobUsage, ...]:
    """Return what each container of the run used: the engine's times, its control group's counts.

    Memory is the most that the group was charged with, files it had cached included. A container
    whose wrapper was killed has times alone.
    """
    planned = read_planned(paths)
    if planned is None:
        return ()
    files = [ContainerFiles(paths=paths, index=index) for index in range(len(planned.names))]
    found = [_usage(own, ended) for own in files if (ended := own.read_ended()) is not None]
    return tuple(found)


def _usage(own: ContainerFiles, ended: Ended) -> JobUsage:
    used = own.usage()
    cpu = used.get("cpu_ns")
    return JobUsage(
        cluster="docker",
        job_id=own.index,
        attempt=own.index,
        state="out of memory" if ended.oom_killed else f"exit code {ended.exit_code}",
        node_list=ended.name,
        source="wrapper",
        elapsed_s=_elapsed(ended),
        cpu_used_s=None if cpu is None else cpu / 1e9,
        max_rss_bytes=used.get("peak_bytes"),
    )


def _elapsed(ended: Ended) -> float | None:
    try:
        began, over = (
            datetime.fromisoformat(text) for text in (ended.started_at, ended.finished_at)
        )
    except ValueError:
        return None
    # The engine's zero time stands for a container that was never started.
    return None if began.year == 1 else max(0.0, (over - began).total_seconds())
