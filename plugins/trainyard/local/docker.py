"""The trainer's image as a site of the local stack: ``make demo SITE=docker``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trainyard.backends import open_backend
from trainyard.docker.engine import local_engine
from trainyard.docker.site import DockerSite
from trainyard.errors import UnavailableError
from trainyard.local.state import REPOSITORY, StackPaths, local_site, toml
from trainyard.paths import RunPaths
from trainyard.sites import parse_sites

SITE = "docker"
"""Name of the site in the trigger forms."""
PYTHON = "/opt/trainer/bin/python"
"""The trainer's Python in its image."""
_STOP_S = 3.0


def image() -> str:
    """Return the name of the trainer's image: TRAINYARD_TAG says which one."""
    return f"trainyard/trainer:{os.environ.get('TRAINYARD_TAG', 'dev')}"


def docker_site(root: Path) -> str:
    """Return the site's tables for the stack in *root*; the image is built first.

    Raises ``UnavailableError`` with the next step when there is no engine or no image.
    """
    need_image(image())
    place = {**local_site(StackPaths(root=root.resolve())), "launcher": "docker", "python": PYTHON}
    return f"[{SITE}]\n{toml(place)}[{SITE}.docker]\n{toml({'image': image()})}"


def end_runs(root: Path) -> None:
    """End the containers that the stack in *root* leaves behind: nobody waits for them any more."""
    paths = StackPaths(root=root.resolve())
    if not paths.sites.is_file():
        return  # the stack never came up
    site = parse_sites(paths.sites.read_text(), str(paths.sites))[SITE]
    backend = open_backend(site)
    for note in sorted(paths.runs.glob("*/containers/planned.json")):
        run = RunPaths(root=paths.runs, run_id=note.parent.parent.name)
        if not backend.observe(run).state.is_over:
            backend.cancel(run, why="the stack was stopped", grace_s=_STOP_S)
        backend.sweep(run)


def need_image(name: str) -> None:
    """Build the image called *name* from this tree; one that ``TRAINYARD_TAG`` names is kept.

    An image older than the tree would refuse what the tree asks of it. Where nothing changed, the
    build takes seconds.
    """
    try:
        found = local_engine(DockerSite(image=name)).image(name)
        if found is not None and "TRAINYARD_TAG" in os.environ:
            return
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}\nThe demo in containers needs a Docker engine that this user may use. "
            "Without one: make demo"
        ) from error
    print(f"Building {name} …", flush=True)
    command = ["make", "images", "IMAGES=trainer", f"TAG={name.rpartition(':')[2]}"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    if done.returncode:
        raise UnavailableError(
            f"make images failed with exit code {done.returncode}: its last lines above say why. "
            "Where no registry answers: make images BASE=…"
        )
