"""Is a Docker engine ready to run on: what ``verify_environment`` checks of a Docker site.

The decisive check is a container made exactly as those of runs are: same image, user, mounts,
limits and GPUs. What it finds stands in its folder, as a run's result would.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.contract import Dataset, RunSpec
from trainyard.backends import State
from trainyard.backends.docker import DockerBackend
from trainyard.docker import wrapper
from trainyard.docker.engine import Engine
from trainyard.docker.render import creations, docker_of
from trainyard.docker.site import Containers
from trainyard.environment import Checks, Finding
from trainyard.errors import UnavailableError
from trainyard.launch import Launch, environment
from trainyard.paths import RunPaths
from trainyard.runlog import tail, tail_of_run
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.store import Verdict

_OLDEST_API = (1, 41)
"""API of Docker 20.10, the oldest engine that is tested with."""
_PROBE_S = 120.0
_PROBE = (
    "import json, os, shutil, sys, torch, torchvision, trainer; "
    "print(json.dumps({'python': sys.version.split()[0], 'torch': torch.__version__, "
    "'torchvision': torchvision.__version__, 'gloo': torch.distributed.is_gloo_available(), "
    "'gpus': torch.cuda.device_count(), 'user': os.getuid(), "
    "'data': os.access(sys.argv[1], os.R_OK | os.X_OK), "
    "'shm': shutil.disk_usage('/dev/shm').total}))"
)
_OLDEST_TORCH = (2, 11)


@dataclass(kw_only=True, slots=True, frozen=True)
class _Found:
    """What the container of the probe saw."""

    values: dict[str, Any]
    seconds: float


def docker_checks(site: Site, engine: Engine) -> Checks:
    """Return the checks of the engine behind *site*; what is not as needed is a finding."""
    probe = _Probe(site, engine)

    def the_engine(_settings: Settings, _site: Site) -> Finding:
        return _engine(engine.again())

    def image(_settings: Settings, _site: Site) -> Finding:
        return _image(site, engine.again())

    def cores(_settings: Settings, _site: Site) -> Finding:
        return _cores(site, engine.again())

    def trainer(_settings: Settings, _site: Site) -> Finding:
        return _trainer(probe())

    def mounts(_settings: Settings, _site: Site) -> Finding:
        return _mounts(site, probe())

    def gpus(_settings: Settings, _site: Site) -> Finding:
        return _gpus(site, probe)

    return {
        "docker engine": the_engine,
        "docker image": image,
        "docker mounts": mounts,
        "trainer": trainer,
        "cores": cores,
        "gpus": gpus,
    }


def _engine(engine: Engine) -> Finding:
    found = engine.version()
    new = tuple(int(part) for part in found.api.split(".")[:2]) >= _OLDEST_API
    return Finding(
        verdict=Verdict.PASSED if new else Verdict.FAILED,
        measured=f"Docker {found.engine} at {engine.host}, API {found.api}",
        requirement="an answer, API 1.41 (Docker 20.10) or newer",
        fix="" if new else "update the engine",
    )


def _image(site: Site, engine: Engine) -> Finding:
    docker = docker_of(site)
    found = engine.image(docker.image)
    fix = f"build it (make images) or: docker pull {docker.image}"
    if found is None:
        pulls = docker.pull != "never"
        return Finding(
            verdict=Verdict.WARNING if pulls else Verdict.FAILED,
            measured=f"{docker.image} is not there",
            requirement=f"the image, or pull = 'missing' (now {docker.pull.value!r})",
            fix="the first run pulls it, which is part of no measurement" if pulls else fix,
        )
    return Finding(
        verdict=Verdict.PASSED,
        measured=f"{docker.image} is {found.digest}",
        requirement="the image on the engine",
    )


def _cores(site: Site, engine: Engine) -> Finding:
    found = int(engine.info().get("NCPU", 0))
    enough = found >= site.cores
    return Finding(
        verdict=Verdict.PASSED if enough else Verdict.FAILED,
        measured=f"{found} cores on the engine's host",
        requirement=f"{site.cores} cores, as the site says",
        fix="" if enough else f"set cores = {found} for site {site.name}",
    )


def _trainer(found: _Found) -> Finding:
    values = found.values
    torch = tuple(int(part) for part in values["torch"].partition("+")[0].split(".")[:2])
    enough = torch >= _OLDEST_TORCH and values["gloo"]
    return Finding(
        verdict=Verdict.PASSED if enough else Verdict.FAILED,
        measured=f"Python {values['python']}, torch {values['torch']}, torchvision "
        f"{values['torchvision']}, gloo {'yes' if values['gloo'] else 'no'}; a container from "
        f"start to end in {found.seconds:.1f} s",
        requirement="imports trainer, torch 2.11 or newer, torchvision, gloo",
        fix="" if enough else "build the image anew: make images",
    )


def _mounts(site: Site, found: _Found) -> Finding:
    fits = bool(found.values["data"])
    return Finding(
        verdict=Verdict.PASSED if fits else Verdict.FAILED,
        measured=f"user {found.values['user']} writes {site.runs_dir} and "
        f"{'reads' if fits else 'cannot read'} {site.data_dir}",
        requirement="run folders to write and data to read, under the same paths as here",
        fix="" if fits else f"let user {found.values['user']} read {site.data_dir}",
    )


def _gpus(site: Site, probe: _Probe) -> Finding:
    if not site.gpus_per_node:
        return Finding(
            verdict=Verdict.SKIPPED,
            measured="not looked for",
            requirement="none: the site runs on cores",
        )
    found, wanted = int(probe().values["gpus"]), probe.gpus
    return Finding(
        verdict=Verdict.PASSED if found >= wanted else Verdict.FAILED,
        measured=f"{found} GPUs in a container",
        requirement=f"{wanted} GPUs in a container, as the site says",
        fix="" if found >= wanted else "check nvidia-smi and the NVIDIA container toolkit there",
    )


def container_answer(site: Site, engine: Engine, code: str) -> dict[str, Any]:
    """Return the JSON that *code* prints in a container like those of runs.

    Raises ``TrainyardError`` with its last words.
    """
    return _Probe(site, engine, code)().values


class _Probe:
    """One container like those of runs, made once for all checks that need it."""

    def __init__(self, site: Site, engine: Engine, code: str = _PROBE) -> None:
        self.site = site
        self._code = code
        self._backend = DockerBackend(site, engine)
        self._lock = threading.Lock()
        self._found: _Found | None = None
        self._failed: UnavailableError | None = None

    @property
    def gpus(self) -> int:
        """GPUs that the container asks for."""
        alone = docker_of(self.site).containers is Containers.PER_RANK
        return min(1, self.site.gpus_per_node) if alone else self.site.gpus_per_node

    def __call__(self) -> _Found:
        """Return what the container found. Raises ``TrainyardError`` with its last words."""
        with self._lock:  # the checks go on side by side
            if self._failed is not None:
                raise UnavailableError("see the check 'docker mounts'") from self._failed
            if self._found is None:
                try:
                    self._found = self._look()
                except UnavailableError as error:
                    self._failed = error
                    raise
            return self._found

    def _look(self) -> _Found:
        site = self.site
        ranks = max(1, self.gpus)
        spec = RunSpec(
            name="probe",
            dataset=Dataset.DIGITS,
            dataset_digest="0" * 64,
            ranks=ranks,
            global_batch=64 * ranks,
            steps=1,
        )
        paths = RunPaths(root=Path(site.runs_dir), run_id=f".probe-{time.time_ns():x}")
        argv = (site.python, "-c", self._code, site.data_dir)
        env = environment(spec, site)
        launch = Launch(
            argv=argv,
            env=env,
            script=wrapper.script(argv, paths),
            containers=creations(spec, site, paths, env),
        )
        Path(site.data_dir).mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            seen = self._backend.start(launch, paths, spec)
            while not seen.state.is_over and time.monotonic() < began + _PROBE_S:
                time.sleep(0.1)
                seen = self._backend.observe(paths)
            if seen.state is not State.EXITED or seen.exit_code != 0:
                words = tail_of_run(paths).strip().splitlines()[-1:]
                raise UnavailableError(f"a container like those of runs {seen.detail}: {words}")
            values = json.loads(tail(paths.stdout).splitlines()[-1])
            return _Found(values=values, seconds=time.monotonic() - began)
        finally:
            self._backend.sweep(paths)
            shutil.rmtree(paths.run_dir, ignore_errors=True)
            paths.lock.unlink(missing_ok=True)
