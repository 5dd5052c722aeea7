"""What a container costs a training run: its images per second over those of a plain process.

Run in the Airflow environment: ``python benchmarks/containers_throughput.py [--image NAME]``.

Both sides are whole runs of one spec, started by the backends that tasks use, with the trainer's
Python of the site: the host's environment and the image's, made from one lock. They alternate
(A B, B A, A B …), so that a drift of the machine falls on both. A pair gives one ratio of the
trainer's own median throughput; reported is the median over pairs with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.contract import Dataset, RunSpec, Status
from trainyard.analysis.statistics import estimate
from trainyard.backends import open_backend
from trainyard.docker.site import DockerSite
from trainyard.launch import launch
from trainyard.outcome import judge
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGE = "trainyard/trainer:dev"
CLAIM = 0.98
SPEC = RunSpec(
    name="container-vs-process",
    dataset=Dataset.SYNTHETIC,
    steps=520,
    warmup_steps=20,
    window_steps=25,
    evaluate=False,
)
_POLL_S = 0.2
_LIMIT_S = 900


@dataclass(kw_only=True, frozen=True)
class Comparison:
    """Throughput of one site over another, from interleaved pairs of runs."""

    ratio: float
    low: float | None
    high: float | None
    ratios: tuple[float, ...]
    first: tuple[float, ...]
    """Images per second of each run on the first site, in order."""
    second: tuple[float, ...]
    flags: tuple[str, ...]
    """What the runs said against being compared, such as ``foreign_load``."""


def plain_site(folder: Path, **changes: Any) -> Site:
    """Return the site of plain processes with its folders in *folder*."""
    python = REPOSITORY / ".trainyard" / "envs" / "trainer" / "bin" / "python"
    values: dict[str, Any] = {
        "name": "process",
        "python": str(python),
        "runs_dir": str(folder / "process"),
        "data_dir": str(folder / "data"),
        "cores": len(os.sched_getaffinity(0)),
        "run_timeout_s": _LIMIT_S,
    }
    return Site(**(values | changes))


def docker_site(folder: Path, image: str = IMAGE) -> Site:
    """Return the site of containers of *image* with its folders in *folder*."""
    return plain_site(
        folder,
        name="docker",
        launcher=Launcher.DOCKER,
        python="/opt/trainer/bin/python",
        runs_dir=str(folder / "docker"),
        docker=DockerSite(image=image),
    )


def compare(first: Site, second: Site, *, spec: RunSpec = SPEC, pairs: int = 8) -> Comparison:
    """Return the throughput of *first* over *second* from *pairs* interleaved pairs of runs.

    One run of each comes before, and is not counted: it fills the page cache. Raises
    ``RuntimeError`` with the run's reason when one does not complete.
    """
    for site in (first, second):
        _run(site, replace(spec, steps=spec.warmup_steps + spec.window_steps), "warm-up")
    rates: dict[str, list[float]] = {first.name: [], second.name: []}
    flags: set[str] = set()
    for pair in range(pairs):
        for site in (first, second) if pair % 2 == 0 else (second, first):
            rate, raised = _run(site, spec, f"pair-{pair}")
            rates[site.name].append(rate)
            flags |= raised
        ratio = rates[first.name][-1] / rates[second.name][-1]
        print(f"pair {pair + 1} of {pairs}: {ratio:.4f}", file=sys.stderr, flush=True)
    ratios = [a / b for a, b in zip(rates[first.name], rates[second.name], strict=True)]
    found = estimate(ratios)
    if found is None:
        raise RuntimeError("no pair was measured")
    return Comparison(
        ratio=found.value,
        low=found.low,
        high=found.high,
        ratios=tuple(ratios),
        first=tuple(rates[first.name]),
        second=tuple(rates[second.name]),
        flags=tuple(sorted(flags)),
    )


def _run(site: Site, spec: RunSpec, name: str) -> tuple[float, set[str]]:
    """Run *spec* on *site* and return its images per second and its flags."""
    backend = open_backend(site)
    paths = RunPaths(root=Path(site.runs_dir), run_id=f"{name}-{time.time_ns():x}")
    try:
        seen = backend.start(launch(spec, site, paths), paths, spec)
        while not seen.state.is_over:
            time.sleep(_POLL_S)
            seen = backend.observe(paths)
    finally:
        backend.cancel(paths, why="the benchmark was ended")
        backend.sweep(paths)
    outcome = judge(paths, spec, seen)
    if outcome.status is not Status.COMPLETED or outcome.result is None:
        raise RuntimeError(f"{site.name}: {outcome.status}: {outcome.reason}\n{outcome.log_tail}")
    rate = next(m.value for m in outcome.result.metrics if m.name == "images_per_second")
    return rate, {str(flag) for flag in outcome.result.flags}


def measure(
    *, image: str = IMAGE, pairs: int = 8, ranks: int = 1, contained: Site | None = None
) -> dict[str, Any]:
    """Return ``container_vs_process`` with its interval and what it was made from.

    *contained*: another site to hold against plain processes, such as one behind Apptainer; its
    folders must exist for as long as the measurement. Default: containers of *image*.
    """
    spec = replace(SPEC, ranks=ranks, global_batch=SPEC.per_rank_batch * ranks)
    with tempfile.TemporaryDirectory(prefix="ty-bench-") as name:
        folder = Path(name)
        for part in ("process", "docker", "data"):
            (folder / part).mkdir()
        site = contained or docker_site(folder, image)
        found = compare(site, plain_site(folder), spec=spec, pairs=pairs)
    return {
        "container_vs_process": round(found.ratio, 4),
        "ci95": [None if end is None else round(end, 4) for end in (found.low, found.high)],
        "claim": CLAIM,
        "site": site.name,
        "image": site.docker.image if site.docker else "",
        "ranks": ranks,
        "pairs": pairs,
        "ratios": [round(ratio, 4) for ratio in found.ratios],
        "container_images_per_second": [round(rate, 1) for rate in found.first],
        "process_images_per_second": [round(rate, 1) for rate in found.second],
        "flags": list(found.flags),
    }


def main() -> None:
    """Measure and print one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default=IMAGE, help="image of the trainer")
    parser.add_argument("--pairs", type=int, default=8, help="interleaved pairs of runs")
    parser.add_argument("--ranks", type=int, default=1, help="ranks of every run")
    options = parser.parse_args()
    print(json.dumps(measure(image=options.image, pairs=options.pairs, ranks=options.ranks)))


if __name__ == "__main__":
    main()
