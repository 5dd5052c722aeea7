"""The trainer's image as a site of the local stack: ``make demo SITE=docker``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trainyard.docker.engine import local_engine
from trainyard.docker.site import DockerSite
from trainyard.errors import UnavailableError
from trainyard.local.state import REPOSITORY, StackPaths, local_site, toml

SITE = "docker"
"""Name of the site in the trigger forms."""
PYTHON = "/opt/trainer/bin/python"
"""The trainer's Python in its image."""


def image() -> str:
    """Return the name of the trainer's image: TRAINYARD_TAG says which one."""
    return f"trainyard/trainer:{os.environ.get('TRAINYARD_TAG', 'dev')}"


def docker_site(root: Path) -> str:
    """Return the site's tables for the stack in *root*; a missing image is built first.

    Raises ``UnavailableError`` with the next step when there is no engine or no image.
    """
    need_image(image())
    place = {**local_site(StackPaths(root=root.resolve())), "launcher": "docker", "python": PYTHON}
    return f"[{SITE}]\n{toml(place)}[{SITE}.docker]\n{toml({'image': image()})}"


def need_image(name: str) -> None:
    """Build the image called *name* unless the engine has it."""
    try:
        if local_engine(DockerSite(image=name)).image(name) is not None:
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
