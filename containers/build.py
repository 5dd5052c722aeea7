"""Build the container images: ``python3 containers/build.py [IMAGE…]``, or `make images`.

Chooses the base, passes commit and versions on, and prints what each image holds and cost. Needs
Docker Engine 20.10 or newer with BuildKit, and nothing beside Python's own library.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bootstrap

ROOT = Path(__file__).resolve().parent.parent
PUBLIC_BASE = "python:3.11-slim-bookworm"
KEY = "trainyard.key"
# In the order of their making: slurm takes what trainer made. Each with the packages whose locked
# versions become labels.
IMAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "trainer": ("trainer.txt", ("torch", "torchvision", "numpy")),
    "airflow": ("airflow.txt", ("apache-airflow", "apache-airflow-providers-docker", "mlflow")),
    "mlflow": ("mlflow.txt", ("mlflow", "psycopg", "boto3")),
    "docker-proxy": ("docker-proxy.txt", ()),
    "slurm": ("trainer.txt", ("torch", "torchvision", "numpy")),
}
_PULL_TIMEOUT_S = 300
_COPY = re.compile(r"^COPY (?!--from)((?:[^\n]|\\\n)*?)(?<!\\)\n", re.MULTILINE)


class BuildError(Exception):
    """An image could not be built; the message says which and shows the end of the output."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a build leaves open."""

    base: str
    tag: str = "dev"
    gpu: str = "yes"
    torch: str = "lock"
    trainer_base: str = ""

    def arguments(self, name: str) -> dict[str, str]:
        """Return the build arguments of the image called *name*, commit and version excepted."""
        if name == "slurm":
            prefix = "trainyard/trainer"
            return {
                "ENVIRONMENT": f"{prefix}-environment:{self.tag}",
                "TRAINER": f"{prefix}:{self.tag}",
            }
        if name == "trainer":
            base = self.trainer_base or self.base
            return {"BASE": base, "GPU": self.gpu, "TORCH": self.torch}
        return {"BASE": self.base}


@dataclass(frozen=True, kw_only=True)
class Built:
    """One image as it was built or found."""

    name: str
    reference: str
    image_id: str
    size_bytes: int
    seconds: float


def build(name: str, choice: Choice) -> Built:
    """Build the image called *name*; layers that did not change are taken from the cache.

    Raises ``BuildError``.
    """
    began = time.monotonic()
    reference = f"trainyard/{name}:{choice.tag}"
    arguments = {**choice.arguments(name), "COMMIT": commit(), "VERSION": version()}
    with lock():
        if name == "trainer":
            docker_build(
                name, arguments, f"trainyard/trainer-environment:{choice.tag}", "environment"
            )
        docker_build(name, arguments, reference, labels={**_versions(name), KEY: key(name, choice)})
    return found(name, choice.tag, time.monotonic() - began)


def ensure(name: str, choice: Choice) -> Built:
    """Return the image called *name*, built unless one of the same content is there.

    Unlike ``build``, does not look for a newer commit: two commits with equal files are one image.
    """
    reference = f"trainyard/{name}:{choice.tag}"
    labels = inspect(reference, "{{json .Config.Labels}}")
    if labels and json.loads(labels).get(KEY) == key(name, choice):
        return found(name, choice.tag, 0.0)
    return build(name, choice)


def found(name: str, tag: str, seconds: float) -> Built:
    """Describe an image that exists."""
    reference = f"trainyard/{name}:{tag}"
    image_id, size = inspect(reference, "{{.Id}} {{.Size}}").split()
    return Built(
        name=name, reference=reference, image_id=image_id, size_bytes=int(size), seconds=seconds
    )


def docker_build(
    name: str,
    arguments: dict[str, str],
    reference: str,
    target: str = "",
    labels: dict[str, str] | None = None,
) -> None:
    """Run a ``docker build`` of containers/*name*; raises ``BuildError`` with its last words."""
    command = ["docker", "build", "--progress", "plain", "--tag", reference]
    command += ["--file", f"containers/{name}/Dockerfile"]
    for argument, value in arguments.items():
        command += ["--build-arg", f"{argument}={value}"]
    for label, value in (labels or {}).items():
        command += ["--label", f"{label}={value}"]
    command += ["--target", target] if target else []
    done = subprocess.run(
        [*command, "."],
        cwd=ROOT,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise BuildError(
            f"image {reference}: docker build ended with exit code {done.returncode}:\n"
            f"{done.stdout[-3000:]}\nNext step: docs/containers.md, Troubleshooting"
        )


@contextmanager
def lock() -> Iterator[None]:
    """Let one process of this machine build at a time: a second one then finds the layers."""
    path = Path(tempfile.gettempdir()) / f"trainyard-images-{os.getuid()}.lock"
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def key(name: str, choice: Choice) -> str:
    """Return a hash of everything that decides what the image holds, the commit excepted."""
    images = ("trainer", "slurm") if name == "slurm" else (name,)
    digest = hashlib.sha256()
    for image in images:
        arguments = choice.arguments(image)
        bases = [value for item, value in arguments.items() if item == "BASE"]
        digest.update(
            repr((sorted(arguments.items()), [inspect(base, "{{.Id}}") for base in bases])).encode()
        )
        for path in sources(image):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def sources(name: str) -> list[Path]:
    """Return the files that the image's Dockerfile copies from the repository, and itself."""
    dockerfile = ROOT / "containers" / name / "Dockerfile"
    named = [
        ROOT / word
        for instruction in _COPY.findall(dockerfile.read_text())
        for word in instruction.replace("\\\n", " ").split()[:-1]
        if not word.startswith("--")
    ]
    files = {dockerfile}
    for path in named:
        files.update(path.rglob("*") if path.is_dir() else [path])
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def inspect(reference: str, template: str) -> str:
    """Return what Docker says about an image, empty when there is no such image."""
    asked = ["docker", "image", "inspect", "--format", template, reference]
    answer = subprocess.run(asked, check=False, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def commit() -> str:
    """Return the commit of the tree, ``-dirty`` behind it with uncommitted changes; else empty."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty" if head and changed else head


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    try:
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def version() -> str:
    """Return the version of this repository."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _versions(name: str) -> dict[str, str]:
    lock_file, packages = IMAGES[name]
    text = (ROOT / "requirements" / lock_file).read_text()
    pins = {package: re.search(rf"^{package}==([^ ]+)", text, re.MULTILINE) for package in packages}
    return {f"trainyard.{package}": pin[1] for package, pin in pins.items() if pin}


def choose_base(asked: str = "") -> tuple[str, str]:
    """Return the base image and why it is that one: as asked, the public one, or one made here.

    Raises ``bootstrap.BootstrapError`` where no registry answers and none can be made.
    """
    if asked:
        return asked, "as asked for"
    if inspect(PUBLIC_BASE, "{{.Id}}"):
        return PUBLIC_BASE, "already on this engine"
    made = f"trainyard/base:{bootstrap.SUITE}"
    if inspect(made, "{{.Id}}"):
        return bootstrap.ensure(), f"made here before; BASE={PUBLIC_BASE} asks the registry again"
    try:
        pull = ["docker", "pull", "--quiet", PUBLIC_BASE]
        done = subprocess.run(
            pull, check=False, capture_output=True, text=True, timeout=_PULL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_PULL_TIMEOUT_S} s"
    else:
        if done.returncode == 0:
            return PUBLIC_BASE, "pulled"
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return bootstrap.ensure(), f"made here, since {PUBLIC_BASE} cannot be pulled: {reason}"


def choose_gpu(asked: str = "auto") -> tuple[str, str]:
    """Return whether the trainer image is to run on GPUs, and why."""
    if asked != "auto":
        return asked, "as asked for"
    if Path("/proc/driver/nvidia/version").exists():
        return "yes", "this machine has an NVIDIA driver"
    return "no", "no NVIDIA driver here; GPU=yes builds for machines that have one"


def main(arguments: Sequence[str]) -> None:
    """Build the images asked for."""
    asked = _parser().parse_args(arguments)
    try:
        base, why = choose_base(asked.base)
        print(f"base     {base} ({why})", flush=True)
        gpu, why = choose_gpu(asked.gpu)
        print(f"GPU={gpu}   ({why})", flush=True)
        choice = Choice(
            base=base, tag=asked.tag, gpu=gpu, torch=asked.torch, trainer_base=asked.trainer_base
        )
        for name in asked.images or list(IMAGES):
            made = build(name, choice)
            size = f"{made.size_bytes / 1e9:.2f} GB"
            print(f"{made.reference:<28}{size:>9}{made.seconds:>7.0f} s", flush=True)
    except (BuildError, bootstrap.BootstrapError) as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError:
        sys.exit("error: docker is not installed; docs/containers.md says what is needed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Build the container images.")
    parser.add_argument(
        "images", nargs="*", choices=[[], *IMAGES], metavar="IMAGE", help=", ".join(IMAGES)
    )
    parser.add_argument(
        "--base", default="", help=f"base image (default: {PUBLIC_BASE}, else made here)"
    )
    parser.add_argument(
        "--trainer-base", default="", help="base of the trainer alone, e.g. NGC PyTorch"
    )
    parser.add_argument("--torch", default="lock", choices=["lock", "base"])
    parser.add_argument("--gpu", default="auto", choices=["auto", "yes", "no"])
    parser.add_argument("--tag", default="dev")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
