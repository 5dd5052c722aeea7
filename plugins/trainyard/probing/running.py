"""Probing a site where its runs happen: the probes start like a run, through the same backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.contract import ContractError, Dataset, ProbeReport, RunSpec, loads
from trainyard.backends import Backend, Observation, State
from trainyard.docker.site import Containers
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.runlog import tail_of_run
from trainyard.sites import Site

BUDGET_S = 60
"""Seconds for the probes of a node."""
_START_S = 120
"""Seconds for a container, an image or a job to start and end, waiting in a queue excluded."""
_QUEUE_S = 600
"""Longest wait in a cluster's queue: the task that waits holds a worker slot."""
_LOOK_S = 0.2


@dataclass(kw_only=True, slots=True, frozen=True)
class Probed:
    """What came back from a site."""

    reports: tuple[ProbeReport, ...]
    """One per node, by node."""
    around_s: float
    """Seconds from handing the probes to the launcher until their end, less those of the probes:
    what starting and ending costs on this site."""


def probe_site(
    site: Site, backend: Backend, *, name: str, quick: bool = True, nodes: int = 1
) -> Probed:
    """Probe *nodes* nodes of *site*, wait for the end, and return their reports.

    *name* is the run's, and its folder goes afterwards. Raises ``UnavailableError`` with the last
    words of the probes when they left no report, ``ConfigurationError`` for more nodes than the
    site has, and for a trainer without probes.
    """
    spec = probe_spec(site, nodes)
    paths = RunPaths(root=Path(site.runs_dir), run_id=name)
    began = time.monotonic()
    queue_s = min(_QUEUE_S, site.slurm.queue_limit_s) if site.slurm else 0
    limit_s = BUDGET_S + _START_S + queue_s
    try:
        made = launch(spec, site, paths, program=program(site, paths, quick=quick))
        seen = backend.start(made, paths, spec)
        while not seen.state.is_over and time.monotonic() < began + limit_s:
            time.sleep(_LOOK_S)
            seen = backend.observe(paths)
        reports = _finished(site, paths, seen, nodes)
    except BaseException:  # the task may be told to stop while it waits
        backend.cancel(paths, why="nobody waits for these probes any more")
        raise
    finally:
        backend.sweep(paths)
        shutil.rmtree(paths.run_dir, ignore_errors=True)
        paths.lock.unlink(missing_ok=True)
    around = time.monotonic() - began - max(report.seconds for report in reports)
    return Probed(reports=tuple(reports), around_s=around)


def probe_spec(site: Site, nodes: int) -> RunSpec:
    """Return the run that has the size of the probes: every core and GPU of *nodes* nodes."""
    alone = site.docker is not None and site.docker.containers is Containers.PER_RANK
    per_node = 1 if alone else max(1, site.gpus_per_node)
    ranks = nodes * per_node
    return RunSpec(
        name="probes",
        dataset=Dataset.SYNTHETIC,
        nodes=nodes,
        ranks=ranks,
        threads_per_rank=max(1, site.cores // per_node),
        distributed=ranks > 1,
        global_batch=64 * ranks,
        per_rank_batch=64,
        steps=1,
    )


def program(site: Site, paths: RunPaths, *, quick: bool) -> tuple[str, ...]:
    """Return the probes' command, as every launcher puts it behind its python."""
    words = ["-m", "trainer.probes", "--out", str(paths.probes), "--run-dir", str(paths.run_dir)]
    words += ["--budget", str(BUDGET_S)]
    if site.docker is None and site.apptainer is None:  # a container sees its run's folder alone
        words += ["--data-dir", site.data_dir]
    return (*words, *(("--quick",) if quick else ()))


def _finished(site: Site, paths: RunPaths, seen: Observation, nodes: int) -> list[ProbeReport]:
    """Return the reports of probes that ended well."""
    if not seen.state.is_over:
        raise UnavailableError(
            f"probes on site {site.name!r} did not end ({seen.detail}); they were cancelled"
        )
    reports = _read(site, paths)
    if seen.state is not State.EXITED or seen.exit_code or len(reports) < nodes:
        words = tail_of_run(paths).strip().splitlines()[-1:]
        raise UnavailableError(
            f"probes on site {site.name!r}: {seen.detail}, {len(reports)} of {nodes} reports "
            f"written: {''.join(words)}"
        )
    return reports


def _read(site: Site, paths: RunPaths) -> list[ProbeReport]:
    files: Sequence[Path] = sorted(paths.probes.glob("*.json")) if paths.probes.is_dir() else []
    try:
        reports = [loads(ProbeReport, file.read_text(), str(file)) for file in files]
    except ContractError as error:
        raise ConfigurationError(
            f"{error}: site {site.name!r} runs another version of the trainer; install this one"
        ) from error
    # Slurm's name of a node is what its quarantine excludes; the host calls itself otherwise.
    return [replace(made, node=file.stem) for file, made in zip(files, reports, strict=True)]
