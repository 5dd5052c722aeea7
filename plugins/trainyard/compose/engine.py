"""Docker's command line, as far as the stack needs it; every failure says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard.errors import ConfigurationError, UnavailableError

_LEAST_COMPOSE = (2, 24, 4)  # `!override`, which docker-compose.tls.yaml uses


def docker(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Return what one docker command prints; raises ``UnavailableError`` with its own words."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError as error:
        raise UnavailableError(
            "docker is not installed or not on the PATH. Install Docker Engine with its Compose "
            "plugin (docs/stack.md), or use `make demo`, which needs neither"
        ) from error
    if done.returncode:
        raise UnavailableError(_explained(arguments, done.stderr.strip() or done.stdout.strip()))
    return done.stdout


def _explained(arguments: Sequence[str], words: str) -> str:
    said = f"docker {' '.join(arguments[:3])}: {words[-1500:]}"
    if "permission denied" in words.lower():
        return (
            f"{said}\nMay this user use Docker? `sudo usermod -aG docker $USER`, then log in again"
        )
    if "cannot connect to the docker daemon" in words.lower():
        return f"{said}\nStart the engine (`sudo systemctl start docker`), or set DOCKER_HOST"
    return said


def check_compose() -> None:
    """Raise unless the Compose plugin is there and new enough."""
    if shutil.which("docker") is None:
        docker("version")
    try:
        found = docker("compose", "version", "--short").strip()
    except UnavailableError as error:
        raise UnavailableError(
            "docker has no Compose plugin: install docker-compose-plugin (Docker's packages) or "
            f"docker-compose-v2 (Ubuntu). Docker said: {error}"
        ) from error
    numbers = tuple(int(part) for part in found.lstrip("v").split("-")[0].split(".")[:3])
    if numbers < _LEAST_COMPOSE:
        least = ".".join(map(str, _LEAST_COMPOSE))
        raise UnavailableError(f"Compose is {found}, the stack needs {least} or newer; update it")


@dataclass(kw_only=True, slots=True, frozen=True)
class Engine:
    """The machine behind Docker's socket."""

    cores: int
    memory_bytes: int
    root: str
    """Folder of images and volumes on that machine."""


def engine() -> Engine:
    """Return what the engine says of its machine; raises ``UnavailableError`` without one."""
    facts = json.loads(docker("info", "--format", "{{json .}}"))
    if facts.get("ServerErrors"):
        raise UnavailableError(_explained(["info"], "; ".join(facts["ServerErrors"])))
    return Engine(cores=facts["NCPU"], memory_bytes=facts["MemTotal"], root=facts["DockerRootDir"])


@dataclass(kw_only=True, slots=True, frozen=True)
class Container:
    """One container of the stack, as Compose shows it."""

    service: str
    name: str
    state: str
    """created, running, restarting, exited …"""
    health: str
    """starting, healthy, unhealthy; empty without a health check."""
    exit_code: int
    ports: tuple[int, ...]
    """Published on this machine."""

    def is_well(self, *, once: bool) -> bool:
        """Whether it does what it is there for: runs and is healthy; *once*: has done its job.

        Running is not enough: a service that ends and is started again runs most of the time.
        """
        if once:
            return self.state == "exited" and self.exit_code == 0
        return self.state == "running" and self.health == "healthy"

    @property
    def told(self) -> str:
        """State and health in words."""
        if self.state == "exited":
            return "done" if self.exit_code == 0 else f"exited with {self.exit_code}"
        return self.health or self.state


def parse_containers(text: str) -> list[Container]:
    """Return the containers in the output of ``compose ps --format json``: a list, or lines."""
    text = text.strip()
    rows = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    return [_container(row) for row in rows]


def _container(row: Mapping[str, Any]) -> Container:
    published = {item["PublishedPort"] for item in row.get("Publishers") or ()}
    return Container(
        service=row["Service"],
        name=row["Name"],
        state=row["State"],
        health=row.get("Health", ""),
        exit_code=int(row.get("ExitCode", 0)),
        ports=tuple(sorted(published - {0})),
    )


@dataclass(kw_only=True, slots=True, frozen=True)
class Compose:
    """One Compose project."""

    root: Path
    """Repository."""
    env_file: Path
    project: str
    files: tuple[str, ...]
    """Compose files below *root*, or absolute."""
    profiles: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that come before those of *env_file*."""

    def __post_init__(self) -> None:
        """Refuse files that are not there."""
        for name in self.files:
            if not (self.root / name).is_file():
                raise ConfigurationError(
                    f"COMPOSE_FILE names {name!r}, which is no file in {self.root}; the choices "
                    "are docker-compose.yaml, and docker-compose.tls.yaml after it"
                )

    def argv(self, *arguments: str, every_profile: bool = False) -> list[str]:
        """Return the command line without ``docker`` itself."""
        profiles: Iterable[str] = ("*",) if every_profile else self.profiles
        return [
            "compose",
            "--project-directory", str(self.root),
            "--env-file", str(self.env_file),
            "--project-name", self.project,
            *(part for name in self.files for part in ("--file", str(self.root / name))),
            *(part for name in profiles for part in ("--profile", name)),
            *arguments,
        ]  # fmt: skip

    def run(self, *arguments: str, every_profile: bool = False) -> str:
        """Return what one Compose command prints."""
        return docker(*self.argv(*arguments, every_profile=every_profile), env=self.variables)

    @property
    def variables(self) -> dict[str, str]:
        """Environment of every command: nothing of the caller's own choice of files or profiles."""
        return {"COMPOSE_FILE": "", "COMPOSE_PROFILES": "", **self.environment}

    def config(self, *, every_profile: bool = False) -> dict[str, Any]:
        """Return the project with every variable filled in."""
        text = self.run("config", "--format", "json", every_profile=every_profile)
        found: dict[str, Any] = json.loads(text)
        return found

    def containers(self) -> list[Container]:
        """Return the project's containers, stopped ones too."""
        return parse_containers(self.run("ps", "--all", "--format", "json", every_profile=True))


def image_exists(name: str) -> bool:
    """Return whether the engine holds the image."""
    return bool(docker("images", "--quiet", name).strip())


def volume_exists(name: str) -> bool:
    """Return whether the engine holds a volume of exactly this name."""
    found = docker("volume", "ls", "--quiet", "--filter", f"name={name}").split()
    return name in found
