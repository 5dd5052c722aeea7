"""What a run's folder says about its containers: which they are, what began, how each ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.contract import ContractError, dumps, loads
from trainyard.backends import folder
from trainyard.errors import UnavailableError
from trainyard.paths import RunPaths


@dataclass(kw_only=True, slots=True, frozen=True)
class Planned:
    """The containers of a run, on disk before the first one is made."""

    names: tuple[str, ...]
    """Names of the containers, by index."""
    spec_id: str
    """The spec they run."""
    image: str
    """The image as the site names it."""
    image_id: str
    """Its id in the engine."""
    image_digest: str
    """Digest by which another engine finds the same image; the id of one that was built here."""
    memory_bytes: int
    """Memory limit of each; 0: none."""
    at: float
    """When, seconds since 1970 UTC."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Ended:
    """How one container ended, by the engine's word, kept before the container is removed."""

    name: str
    """Name."""
    container_id: str
    """Id."""
    image_id: str
    """Id of the image that ran."""
    status: str
    """``exited``, ``dead``; ``created`` when it was removed before it began."""
    exit_code: int
    """Exit code of its first process."""
    oom_killed: bool
    """The kernel killed one of its processes for the memory limit."""
    error: str = ""
    """Why it could not be started; empty when it could."""
    created_at: str = ""
    """When it was made, UTC, ISO 8601."""
    started_at: str = ""
    """When it was started."""
    finished_at: str = ""
    """When it ended."""
    log_tail: str = ""
    """End of what its wrapper said to the engine; the trainer's output is in files."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ContainerFiles:
    """The files of one container of a run."""

    paths: RunPaths
    """The run."""
    index: int
    """Which of its containers."""

    @property
    def own(self) -> Path:
        """Folder that the container makes first: it exists exactly when the container began."""
        return self.paths.containers / str(self.index)

    @property
    def exit_code(self) -> Path:
        """What the wrapper reported; the first container's is the run's."""
        return self.paths.exit_code if self.index == 0 else self.own / "exit_code"

    @property
    def ended(self) -> Path:
        """``Ended``, written once."""
        return self.paths.containers / f"{self.index}.json"

    @property
    def begun(self) -> bool:
        """Whether the container executed its script."""
        return self.own.exists()

    @property
    def told_to_end(self) -> bool:
        """Whether the container was sent SIGTERM."""
        return (self.own / "signal").exists()

    def reported(self) -> tuple[bool, int | None]:
        """Return whether the wrapper reported an end, and the code (None when it is no number)."""
        try:
            text = self.exit_code.read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return False, None
        return True, int(text) if text.isdigit() else None

    def read_ended(self) -> Ended | None:
        """Return how it ended, if anybody has seen that."""
        try:
            return loads(Ended, self.ended.read_text(), str(self.ended))
        except FileNotFoundError:
            return None
        except ContractError as error:
            raise UnavailableError(f"{error}; remove the file to ask the engine again") from error

    def keep(self, ended: Ended) -> Ended:
        """Write how it ended unless that was done before; return what stands there."""
        with folder.locked(self.paths):
            known = self.read_ended()
            if known is None:
                folder.write_once(self.ended, dumps(ended))
        return known or ended

    def usage(self) -> dict[str, int]:
        """Return what its control group counted: ``cpu_ns``, ``peak_bytes``; empty when unknown."""
        try:
            lines = (self.own / "usage").read_text().splitlines()
        except OSError:
            return {}
        pairs = (line.split() for line in lines)
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004


def planned_path(paths: RunPaths) -> Path:
    """Return where ``Planned`` is kept."""
    return paths.containers / "planned.json"


def read_planned(paths: RunPaths) -> Planned | None:
    """Return the run's containers, or None when nobody has tried to start it yet."""
    place = planned_path(paths)
    try:
        return loads(Planned, place.read_text(), str(place))
    except FileNotFoundError:
        return None
    except ContractError as error:
        raise UnavailableError(f"{error}; the run's containers cannot be recognised") from error


def write_planned(paths: RunPaths, planned: Planned) -> None:
    """Write which containers the run has; the folder must be locked."""
    paths.containers.mkdir(parents=True, exist_ok=True)
    folder.write_once(planned_path(paths), dumps(planned))
