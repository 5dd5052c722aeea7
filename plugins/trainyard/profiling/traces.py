"""Which files a profiled run left, and what is wrong when some are missing."""

from __future__ import annotations

from pathlib import Path

from trainer.contract import Profiler, RunSpec
from trainyard.errors import ProfileError
from trainyard.paths import RunPaths

_NAMES = {
    Profiler.TORCH: "rank{}.pt.trace.json.gz",
    Profiler.NSYS: "rank{}.sqlite",
    Profiler.NCU: "rank{}.ncu.csv",
}
_CAUSES = {
    Profiler.TORCH: "the run's stderr.log says why torch.profiler wrote none",
    Profiler.NSYS: "its log says what nsys printed; try profiler = 'torch', which needs no tool",
    Profiler.NCU: "its log says what ncu printed; try profiler = 'nsys', which needs no permission",
}


def trace_files(paths: RunPaths, spec: RunSpec) -> list[Path]:
    """Return the profile of every rank, in order.

    Raises ``ProfileError`` when the profiler reported a problem, or a rank's file is missing or
    empty: what of the run is recorded stays so, but its profile proves nothing.
    """
    _refuse_problems(paths, spec)
    files = [paths.profiles / _NAMES[spec.profiler].format(rank) for rank in range(spec.ranks)]
    missing = [rank for rank, path in enumerate(files) if not path.is_file()]
    if missing:
        raise ProfileError(
            f"run {paths.run_id}: {len(missing)} of {spec.ranks} ranks left no profile (ranks "
            f"{_listed(missing)}) in {paths.profiles}: {_CAUSES[spec.profiler]}. On several nodes "
            "the run folder must be on a file system that all of them share"
        )
    empty = [rank for rank, path in enumerate(files) if not path.stat().st_size]
    if empty:
        raise ProfileError(
            f"run {paths.run_id}: the profiles of ranks {_listed(empty)} are empty: free space in "
            f"{paths.profiles.parent}, or capture more profile_steps than {spec.profile_steps}; "
            f"{_CAUSES[spec.profiler]}"
        )
    return files


def _refuse_problems(paths: RunPaths, spec: RunSpec) -> None:
    told = []
    for rank in range(spec.ranks):
        path = paths.profiles / f"rank{rank}.problem.txt"
        if path.is_file():
            told.append(f"rank {rank}: {path.read_text(errors='replace').strip()}")
    if told:
        raise ProfileError(
            f"run {paths.run_id} trained, but {spec.profiler} could not profile it. "
            f"{' '.join(told)}"
        )


def _listed(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"{shown} and {len(ranks) - 8} more" if len(ranks) > 8 else shown  # noqa: PLR2004
