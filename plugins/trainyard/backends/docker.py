"""Docker backend: a run as one container per node, each made at most once and judged by evidence.

A container's name is derived from its run, and an engine has a name at most once: whoever tries to
make it again finds it, compares its labels and adopts it. The run folder needs no lock while the
engine is asked. A container is removed only after what the engine says of its end is on disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from trainer.contract import RunSpec
from trainyard.backends import folder
from trainyard.backends.base import JobUsage, Observation, State
from trainyard.docker import files
from trainyard.docker.engine import Container, Engine, Image, NameTakenError
from trainyard.docker.faults import EngineGoneError
from trainyard.docker.files import ContainerFiles, Ended, Planned
from trainyard.docker.render import (
    MANAGED,
    RUN_DIR,
    SPEC_ID,
    Creation,
    Facts,
    docker_of,
    user_of,
)
from trainyard.docker.site import Pull
from trainyard.docker.usage import usage_of
from trainyard.docker.verdict import Part, observation
from trainyard.errors import ConfigurationError, TrainyardError, UnavailableError
from trainyard.launch import Launch
from trainyard.paths import RunPaths
from trainyard.sites import Site

LOG = logging.getLogger(__name__)
_POLL_S = 0.1
_KILL_WAIT_S = 5.0
_MAKING_S = 20.0


class DockerBackend:
    """Runs on one Docker engine. Blocks: use it in a thread."""

    def __init__(
        self, site: Site, engine: Engine, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Ask nobody yet."""
        self._docker = docker_of(site)
        self.engine = engine
        self._sleep = sleep

    # -- the seam

    def start(self, launch: Launch, paths: RunPaths, spec: RunSpec) -> Observation:
        """Make and start the run's containers unless that was done (see ``Backend.start``)."""
        with folder.told(paths):
            with folder.locked(paths):
                folder.check_same_spec(paths, spec)
            seen = self.observe(paths)
            if seen.state.is_over:
                return seen
            planned = self._plan(launch, paths, spec, fresh=seen.state is State.NOT_STARTED)
            for creation in launch.containers:
                self._ensure(creation, planned, paths)
            if folder.cancelled(paths) is not None:
                # Whoever asked may have looked before there was anything to end.
                self._end(self.engine, paths, planned, grace_s=1.0)
            return self.observe(paths)

    def observe(self, paths: RunPaths) -> Observation:
        """Return the evidence; asks the engine only about containers whose end is not known."""
        planned = files.read_planned(paths)
        if planned is None:
            return Observation(state=State.NOT_STARTED)
        try:
            parts = self._parts(self.engine, paths, planned)
        except TrainyardError as error:
            return Observation(
                state=State.UNKNOWN, started_at=planned.at, detail=f"is not known: {error}"
            )
        return observation(
            planned, parts, folder.cancelled(paths), has_result=paths.result.exists()
        )

    def cancel(
        self, paths: RunPaths, *, why: str, grace_s: float = 10.0, asked_by: int | None = None
    ) -> Observation:
        """End the run's containers and remove them: SIGTERM, SIGKILL after *grace_s* seconds.

        Raises ``UnavailableError`` when the engine does not answer: ask again.
        """
        planned = files.read_planned(paths)
        seen = self.observe(paths)
        if planned is None or seen.state.is_over:
            return seen
        if not folder.request_end(paths, why, asked_by=asked_by):
            return seen
        # A connection of its own: a signal handler may interrupt a call on the other one.
        self._end(self.engine.again(), paths, planned, grace_s)
        return self.observe(paths)

    def sweep(self, paths: RunPaths) -> int:
        """Remove the run's containers, which end what still runs; return how many that were."""
        planned = files.read_planned(paths)
        if planned is None:
            return 0
        try:
            return self._end(self.engine, paths, planned, grace_s=0.0)
        except EngineGoneError as error:
            # Containers whose end is known only cost disk; the run counts without their removal.
            LOG.warning("containers of run %s are not removed: %s", paths.run_id, error)
            return 0

    def usage(self, paths: RunPaths) -> tuple[JobUsage, ...]:
        """Return what each container used: its control group's word, the engine's times."""
        return usage_of(paths)

    # -- starting

    def _plan(self, launch: Launch, paths: RunPaths, spec: RunSpec, *, fresh: bool) -> Planned:
        """Return the run's containers, written down before the first one is made."""
        known = files.read_planned(paths)
        if known is not None and not fresh:
            return known
        image = self._image()
        planned = Planned(
            names=tuple(creation.name for creation in launch.containers),
            spec_id=spec.spec_id,
            image=self._docker.image,
            image_id=image.id,
            image_digest=image.digest,
            memory_bytes=self._docker.memory_bytes,
            at=known.at if known else time.time(),
        )
        with folder.locked(paths):
            folder.write_launch(paths, launch, spec)
            files.write_planned(paths, planned)
        return planned

    def _image(self) -> Image:
        name, pull = self._docker.image, self._docker.pull
        found = self.engine.image(name)
        if pull is Pull.ALWAYS or (pull is Pull.MISSING and found is None):
            LOG.info("pulling image %s", name)
            self.engine.pull(name)
            found = self.engine.image(name)
        if found is None:
            raise ConfigurationError(
                f"image {name} is not on the engine at {self.engine.host}: build it (make images), "
                f"docker pull {name}, or set docker.pull = 'missing' (now {pull.value!r}; choose "
                f"from {', '.join(Pull)})"
            )
        return found

    def _ensure(self, creation: Creation, planned: Planned, paths: RunPaths) -> None:
        """Make and start one container unless it was made, was started, or has ended."""
        own = ContainerFiles(paths=paths, index=creation.index)
        deadline = time.monotonic() + _MAKING_S
        while not (own.begun or own.ended.exists()):
            found = self.engine.inspect(creation.name)
            if found is not None:
                self._check_ours(found, planned, paths)
                if found.status == "created":
                    self._start(found)
                return
            try:
                self.engine.create(creation.name, creation.body(self._facts(planned, paths)))
            except NameTakenError as error:
                # Somebody else makes it: its name is taken a moment before it can be seen.
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"container {creation.name} is being made or removed for more than "
                        f"{_MAKING_S:.0f} s; the next try looks again"
                    ) from error
                self._sleep(_POLL_S)

    def _facts(self, planned: Planned, paths: RunPaths) -> Facts:
        owner = paths.run_dir.stat()
        return Facts(
            image_digest=planned.image_digest,
            user=user_of(self._docker, owner.st_uid, owner.st_gid),
        )

    def _check_ours(self, found: Container, planned: Planned, paths: RunPaths) -> None:
        wanted = {MANAGED: "true", SPEC_ID: planned.spec_id, RUN_DIR: str(paths.run_dir)}
        for label, value in wanted.items():
            if found.labels.get(label) != value:
                raise ConfigurationError(
                    f"container {found.name} is not this run's: label {label} = "
                    f"{found.labels.get(label)!r}, not {value!r}; look at it (docker inspect "
                    f"{found.name}) and remove it"
                )
        if found.image_id != planned.image_id:
            if found.status == "created":
                self.engine.remove(found.name)
            raise UnavailableError(
                f"container {found.name}: image {planned.image} is {found.image_id} and was "
                f"{planned.image_id} a moment ago; the next try takes the new one"
            )

    def _start(self, found: Container) -> None:
        try:
            self.engine.start(found.name)
        except EngineGoneError:
            raise  # it may have been started: the next try looks
        except TrainyardError:
            now = self.engine.inspect(found.name)
            if now is not None and now.status == "created":
                self.engine.remove(found.name)
                raise
            # Somebody else started it meanwhile.

    # -- looking

    def _parts(self, engine: Engine, paths: RunPaths, planned: Planned) -> list[Part]:
        return [
            self._part(engine, ContainerFiles(paths=paths, index=index), name)
            for index, name in enumerate(planned.names)
        ]

    def _part(self, engine: Engine, own: ContainerFiles, name: str) -> Part:
        ended, found = own.read_ended(), None
        if ended is None:
            found = engine.inspect(name)
            if found is None:
                ended = own.read_ended()  # somebody else may have kept its end and removed it
            elif found.is_over:
                ended = own.keep(_end_of(found, engine.log_tail(name)))
        reported, code = own.reported()
        return Part(
            name=name,
            present=found,
            ended=ended,
            begun=own.begun,
            reported=reported,
            code=code,
            told_to_end=own.told_to_end,
        )

    # -- ending

    def _end(self, engine: Engine, paths: RunPaths, planned: Planned, grace_s: float) -> int:
        """End, record and remove every container of the run; return how many were running."""
        running = self._running(engine, planned.names)
        count = len(running)
        for signal, wait_s in (("SIGTERM", grace_s), ("SIGKILL", _KILL_WAIT_S)):
            if signal == "SIGTERM" and not grace_s:
                continue
            for name in running:
                engine.signal(name, signal)
            deadline = time.monotonic() + wait_s
            while running and time.monotonic() < deadline:
                self._sleep(_POLL_S)
                running = self._running(engine, running)
        for index, name in enumerate(planned.names):
            self._remove(engine, ContainerFiles(paths=paths, index=index), name)
        return count

    def _running(self, engine: Engine, names: Sequence[str]) -> list[str]:
        found = {name: engine.inspect(name) for name in names}
        return [
            name
            for name, one in found.items()
            if one is not None and not one.is_over and one.status != "created"
        ]

    def _remove(self, engine: Engine, own: ContainerFiles, name: str) -> None:
        """Remove a container after its end is on disk; never one that is not this run's."""
        found = engine.inspect(name)
        if found is None or found.labels.get(RUN_DIR) != str(own.paths.run_dir):
            return
        own.keep(_end_of(found, engine.log_tail(name)))
        engine.remove(name)


def _end_of(found: Container, log_tail: str) -> Ended:
    return Ended(
        name=found.name,
        container_id=found.id,
        image_id=found.image_id,
        status=found.status,
        exit_code=found.exit_code,
        oom_killed=found.oom_killed,
        error=found.error,
        created_at=found.created_at,
        started_at=found.started_at,
        finished_at=found.finished_at,
        log_tail=log_tail,
    )
