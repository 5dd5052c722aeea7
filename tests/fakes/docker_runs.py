"""Runs of stand-in trainers in real containers, and engines that fail or kill when told to."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fakes import trainers
from tests.fakes.runs import SPEC, site
from trainyard.backends import State
from trainyard.backends.docker import DockerBackend
from trainyard.docker.engine import Engine, local_engine
from trainyard.docker.site import DockerSite
from trainyard.launch import launch
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site


def docker_site(base: Path, image: str, **options: Any) -> Site:
    """Return a site whose containers see *base*/bin, and whose python is the stand-in there."""
    tools = base / "bin"
    tools.mkdir(exist_ok=True)
    given = {"image": image, "mounts": (f"{tools}:{tools}:ro",), **options}
    python = str(tools / "stand-in")
    return site(base, python, launcher=Launcher.DOCKER, docker=DockerSite(**given))


class Run:
    """One run of a stand-in trainer in containers."""

    def __init__(
        self, base: Path, image: str, body: str, *, run_id: str = "run", **options: Any
    ) -> None:
        self.site = docker_site(base, image, **options)
        trainers.trainer(base / "bin", body)
        self.engine: Engine = local_engine(self.site.docker)
        self.backend = DockerBackend(self.site, self.engine)
        self.paths = RunPaths(root=Path(self.site.runs_dir), run_id=run_id)
        self.spec = replace(SPEC, distributed=False)

    def launch(self):
        return launch(self.spec, self.site, self.paths)

    def start(self, backend: DockerBackend | None = None):
        return (backend or self.backend).start(self.launch(), self.paths, self.spec)

    def observe(self):
        return self.backend.observe(self.paths)

    def until(self, *states: State, seconds: float = 30.0):
        end = time.monotonic() + seconds
        while (seen := self.observe()).state not in states:
            assert time.monotonic() < end, f"still {seen}"
            time.sleep(0.05)
        return seen

    def wait_for(self, name: str) -> str:
        end = time.monotonic() + 20
        path = self.paths.run_dir / name
        while not (path.exists() and path.read_text().strip()):
            assert time.monotonic() < end, f"{name} never appeared; {self.observe()}"
            time.sleep(0.05)
        return path.read_text().strip()

    def starts(self) -> int:
        """How often the stand-in began."""
        path = self.paths.run_dir / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def names(self) -> list[str]:
        return [creation.name for creation in self.launch().containers]

    def left(self) -> list[str]:
        """Names of the run's containers that the engine still has."""
        return [name for name in self.names if self.engine.inspect(name) is not None]

    def remove(self) -> None:
        for name in self.names:
            self.engine.remove(name)


class Killed(BaseException):
    """Its process was killed: nothing after it is done, no handler runs."""


class MortalEngine(Engine):
    """Dies at a given call, before or after the engine has done what was asked."""

    CALLS = ("image", "create", "start", "inspect", "log_tail", "signal", "remove")

    def __init__(self, engine: Engine, step: int, *, after: bool) -> None:
        super().__init__(engine.host, engine._connect)
        self.left = step
        self.after = after
        for name in self.CALLS:
            setattr(self, name, self._mortal(getattr(self, name)))

    def _mortal(self, call: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            answer = call(*arguments)
            if self.left == 0:
                raise Killed
            return answer

        return wrapped

    def again(self) -> Engine:
        return self
