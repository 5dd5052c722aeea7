"""Is this machine ready to measure on: every check with what was found and what is needed.

Free of Airflow. A check never raises: what went wrong is its finding.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainyard.errors import TrainyardError
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.store import EnvironmentCheck, Verdict, open_store

GIB = 1 << 30
_PATIENCE_S = 10.0
TRAINER_PATIENCE_S = 120.0
TRAINER_PROBE = (
    "import json, sys, torch, torchvision, trainer; "
    "print(json.dumps({'python': sys.version.split()[0], 'torch': torch.__version__, "
    "'torchvision': torchvision.__version__, 'gloo': torch.distributed.is_gloo_available(), "
    "'gpus': torch.cuda.device_count()}))"
)


@dataclass(kw_only=True, slots=True, frozen=True)
class Finding:
    """What one check found."""

    verdict: Verdict
    """What it means."""
    measured: str
    """What was found, with its unit."""
    requirement: str
    """What is needed."""
    fix: str = ""
    """What to do about it; empty when nothing."""


Checks = dict[str, Callable[[Settings, Site], Finding]]
"""Checks by name, in the order in which they are shown."""


def verify(
    settings: Settings, site: Site, *, dag_run_id: str = "", place: Checks | None = None
) -> list[EnvironmentCheck]:
    """Make every check of *site* and return them in a fixed order; stores nothing.

    *place*: checks of where the site's runs happen, each instead of the one of that name; those of
    a cluster take the place of all that look at this host.
    """
    moment = datetime.now(UTC).isoformat()
    first = {} if site.slurm else {"idle": _idle}
    # Alone and first: the others keep a core busy.
    found = {name: _guarded(check, settings, site) for name, check in first.items()}
    checks = {n: c for n, c in CHECKS.items() if not site.slurm or n not in _OF_THIS_HOST}
    checks |= place or {}
    # They wait for other processes most of the time, so they wait together.
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        others = pool.map(lambda check: _guarded(check, settings, site), checks.values())
        found |= dict(zip(checks, others, strict=True))
    return [
        EnvironmentCheck(
            site=site.name,
            checked_at=moment,
            name=name,
            measured=finding.measured,
            requirement=finding.requirement,
            verdict=finding.verdict,
            detail=finding.fix,
            dag_run_id=dag_run_id,
        )
        for name, finding in found.items()
    ]


def _guarded(check: Callable[[Settings, Site], Finding], settings: Settings, site: Site) -> Finding:
    try:
        return check(settings, site)
    except (TrainyardError, OSError, ValueError, subprocess.SubprocessError) as error:
        return Finding(
            verdict=Verdict.FAILED,
            measured=f"{type(error).__name__}",
            requirement="an answer",
            fix=str(error),
        )


def _airflow(_settings: Settings, _site: Site) -> Finding:
    try:
        found = version("apache-airflow-task-sdk")
    except PackageNotFoundError:
        found = "none"
    enough = found != "none" and tuple(int(part) for part in found.split(".")[:2]) >= (1, 3)
    return Finding(
        verdict=Verdict.PASSED if enough else Verdict.FAILED,
        measured=f"task SDK {found}, Python {platform.python_version()}",
        requirement="task SDK 1.3 or newer (Airflow 3.3)",
        fix="" if enough else "install from requirements/airflow.txt: make setup",
    )


def _trainer(_settings: Settings, site: Site) -> Finding:
    done = subprocess.run(
        [site.python, "-c", TRAINER_PROBE],
        capture_output=True,
        text=True,
        timeout=TRAINER_PATIENCE_S,
        check=False,
        cwd="/",
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
    )
    return judge_trainer(site, done.returncode, done.stdout, done.stderr)


def judge_trainer(site: Site, code: int, stdout: str, stderr: str) -> Finding:
    """Return what ``TRAINER_PROBE`` found, run by the site's python wherever that is."""
    needs = "imports trainer, torch 2.11 or newer, torchvision, gloo"
    if code:
        last = (stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(
            verdict=Verdict.FAILED,
            measured=f"exit code {code}: {last}",
            requirement=needs,
            fix=f"{site.python} is the site's python; make setup installs its environment",
        )
    found = json.loads(stdout.splitlines()[-1])
    enough = _at_least(found["torch"], (2, 11)) and found["gloo"]
    return Finding(
        verdict=Verdict.PASSED if enough else Verdict.FAILED,
        measured=f"Python {found['python']}, torch {found['torch']}, "
        f"torchvision {found['torchvision']}, gloo {'yes' if found['gloo'] else 'no'}",
        requirement=needs,
        fix="" if enough else "install from requirements/trainer.txt: make setup",
    )


def _at_least(text: str, wanted: tuple[int, int]) -> bool:
    return tuple(int(part) for part in text.partition("+")[0].split(".")[:2]) >= wanted


def _cores(_settings: Settings, site: Site) -> Finding:
    usable = len(os.sched_getaffinity(0))
    enough = usable >= site.cores
    return Finding(
        verdict=Verdict.PASSED if enough else Verdict.FAILED,
        measured=f"{usable} cores",
        requirement=f"{site.cores} cores, as the site says",
        fix="" if enough else f"set cores = {usable} for site {site.name}",
    )


def _idle(_settings: Settings, _site: Site) -> Finding:
    before, started = _busy_seconds(), time.monotonic()
    time.sleep(0.5)
    busy = (_busy_seconds() - before) / (time.monotonic() - started)
    cores = os.cpu_count() or 1
    quiet = busy < 0.5 * cores
    return Finding(
        verdict=Verdict.PASSED if quiet else Verdict.WARNING,
        measured=f"{busy:.1f} of {cores} cores busy",
        requirement=f"fewer than {0.5 * cores:.1f} busy before a measurement",
        fix="" if quiet else "other programs will taint the numbers; runs are flagged when they do",
    )


def _busy_seconds() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def _memory(_settings: Settings, _site: Site) -> Finding:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    free = kib * 1024 / GIB
    return _amount(free, "GiB of memory free", fail=1.0, warn=2.0, fix="end other programs")


def _disk(_settings: Settings, site: Site) -> Finding:
    place = Path(site.runs_dir)
    place.mkdir(parents=True, exist_ok=True)
    probe = place / f".probe-{os.getpid()}"
    probe.write_bytes(b"x" * 4096)
    probe.unlink()
    free = shutil.disk_usage(place).free / GIB
    return _amount(free, "GiB of disk free", fail=1.0, warn=5.0, fix=f"free space on {place}")


def _amount(found: float, unit: str, *, fail: float, warn: float, fix: str) -> Finding:
    verdict = Verdict.PASSED
    if found < warn:
        verdict = Verdict.FAILED if found < fail else Verdict.WARNING
    return Finding(
        verdict=verdict,
        measured=f"{found:.1f} {unit}",
        requirement=f"{fail:g} at least, {warn:g} to be safe",
        fix="" if verdict is Verdict.PASSED else fix,
    )


def _gpus(_settings: Settings, site: Site) -> Finding:
    shown = Path("/proc/driver/nvidia/gpus")
    found = len(list(shown.iterdir())) if shown.is_dir() else 0
    if not site.gpus_per_node:
        return Finding(
            verdict=Verdict.SKIPPED,
            measured=f"{found} GPUs",
            requirement="none: the site runs on cores",
        )
    enough = found >= site.gpus_per_node
    return Finding(
        verdict=Verdict.PASSED if enough else Verdict.FAILED,
        measured=f"{found} GPUs",
        requirement=f"{site.gpus_per_node} GPUs, as the site says",
        fix="" if enough else f"check the driver (nvidia-smi) or the site {site.name}",
    )


def _object_store(settings: Settings, _site: Site) -> Finding:
    from trainyard.objectstore import ObjectStore

    health = ObjectStore(settings, timeout_s=_PATIENCE_S).check()
    return Finding(
        verdict=Verdict.PASSED if health.ok else Verdict.FAILED,
        measured=health.detail if health.ok else "no answer",
        requirement=f"bucket {health.bucket} at {health.endpoint} can be written and read",
        fix="" if health.ok else health.detail,
    )


def _tracking(settings: Settings, _site: Site) -> Finding:
    started = time.monotonic()
    address = settings.mlflow_url.rstrip("/") + "/health"
    with urllib.request.urlopen(address, timeout=_PATIENCE_S) as answer:  # noqa: S310 - own setting
        good = answer.status == 200  # noqa: PLR2004 - HTTP OK
    return Finding(
        verdict=Verdict.PASSED if good else Verdict.FAILED,
        measured=f"MLflow answered in {1000 * (time.monotonic() - started):.0f} ms",
        requirement=f"an answer within {_PATIENCE_S:.0f} s",
    )


def _results(settings: Settings, _site: Site) -> Finding:
    with open_store(settings.results_url) as store:
        store.query("studies_recent", limit=1)
    return Finding(
        verdict=Verdict.PASSED,
        measured=f"{settings.results_url.partition(':')[0]} at this version's schema",
        requirement="all migrations applied",
    )


def _clock(settings: Settings, _site: Site) -> Finding:
    from trainyard.environment_storage import clock

    return clock(settings, _PATIENCE_S)


def _lifecycle(settings: Settings, _site: Site) -> Finding:
    from trainyard.environment_storage import lifecycle

    return lifecycle(settings)


_OF_THIS_HOST = frozenset({"cores", "memory", "gpus"})
CHECKS: Checks = {
    "airflow": _airflow,
    "trainer": _trainer,
    "cores": _cores,
    "memory": _memory,
    "disk": _disk,
    "gpus": _gpus,
    "object store": _object_store,
    "lifecycle": _lifecycle,
    "tracking": _tracking,
    "results database": _results,
    "clock": _clock,
}
