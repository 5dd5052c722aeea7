"""Image sizes, and the trainer image built again after a change: ``containers_images.py``.

Prints one JSON object as the last line. ``rebuild_s``: seconds from the build command to the
tagged image after one line was added to a file of the trainer; smallest, median and largest of
five builds, each with another line and from the caches of the one before. The tree is not touched:
a copy of the build context is. ``sizes_bytes``: what the engine says of each image; ``own_bytes``:
how much of the trainer image lies above its environment (our code).
Needs a Docker engine; the images are built first when they are missing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "containers"))

import build  # noqa: E402 - found in the folder named above

TAG = "bench"
BUILDS = 5
LARGEST_REBUILD_S = 20.0


def measure(builds: int = BUILDS) -> dict[str, Any]:
    """Return sizes in bytes and seconds of building the trainer image again."""
    base, _ = build.choose_base(os.environ.get("BASE", ""))
    gpu, _ = build.choose_gpu(os.environ.get("GPU") or "auto")
    choice = build.Choice(base=base, tag=TAG, gpu=gpu)
    made = {name: build.ensure(name, choice) for name in build.IMAGES}
    seconds = rebuilds(choice, builds)
    environment = f"trainyard/trainer-environment:{TAG}"
    below = int(build.inspect(environment, "{{.Size}}"))
    return {
        "sizes_bytes": {name: image.size_bytes for name, image in made.items()},
        "own_bytes": made["trainer"].size_bytes - below,
        "gpu_libraries": gpu == "yes",
        "base": base,
        "rebuild_s": {
            "smallest": round(min(seconds), 2),
            "median": round(statistics.median(seconds), 2),
            "largest": round(max(seconds), 2),
            "builds": len(seconds),
        },
        "within_promise": max(seconds) <= LARGEST_REBUILD_S,
    }


def rebuilds(choice: Any, builds: int) -> list[float]:
    """Return the seconds of *builds* builds, each after another change of one source file."""
    found = []
    with tempfile.TemporaryDirectory(prefix="trainyard-context-") as folder:
        context = Path(folder)
        copy_context(context)
        changed = context / "trainer" / "loop.py"
        for number in range(builds):
            with changed.open("a") as file:
                file.write(f"# change {number} of {time.time_ns()}\n")
            began = time.monotonic()
            rebuild(context, choice)
            found.append(time.monotonic() - began)
    tag = f"trainyard/trainer:{TAG}-changed"
    subprocess.run(["docker", "image", "rm", tag], check=True, capture_output=True)
    return found


def copy_context(target: Path) -> None:
    """Copy what the trainer's Dockerfile copies, and the list of what a context leaves out."""
    for path in [*build.sources("trainer"), ROOT / ".dockerignore"]:
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def rebuild(context: Path, choice: Any) -> None:
    """Build the trainer image from *context*; raises ``CalledProcessError`` when that fails."""
    command = ["docker", "build", "--quiet", "--file", "containers/trainer/Dockerfile"]
    command += ["--tag", f"trainyard/trainer:{TAG}-changed"]
    for name, value in choice.arguments("trainer").items():
        command += ["--build-arg", f"{name}={value}"]
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    subprocess.run(
        [*command, "."], cwd=context, env=environment, check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    print(json.dumps(measure()))
